use super::*;

const VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const TEXT: &str = "This is an example message.\n";
const LINE: &str = "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXs\
                    YjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

fn vector() -> (String, Vkey) {
    (format!("{TEXT}\n{LINE}"), Vkey::parse(VKEY).unwrap())
}

fn signer(name: &str, seed: u8) -> NoteSigner {
    NoteSigner::from_seed(name, &[seed; 32]).unwrap()
}

/// The signature line alone.
fn line(signer: &NoteSigner, text: &str) -> String {
    signer.sign(text).unwrap().split_off(text.len() + 1)
}

#[test]
fn the_published_vector_verifies() {
    let (note, vkey) = vector();
    assert_eq!(vkey.to_string(), VKEY);
    let verified = verify_note(&note, std::slice::from_ref(&vkey)).unwrap();
    assert_eq!(verified.text(), TEXT);
    assert_eq!(verified.signers(), [vkey]);
}

#[test]
fn every_flipped_bit_of_the_vector_is_refused() {
    let (note, vkey) = vector();
    for at in 0..note.len() * 8 {
        let mut bytes = note.clone().into_bytes();
        bytes[at / 8] ^= 1 << (at % 8);
        let Ok(bad) = String::from_utf8(bytes) else { continue };
        assert!(verify_note(&bad, std::slice::from_ref(&vkey)).is_err(), "bit {at}: {bad:?}");
    }
}

#[test]
fn unknown_keys_are_ignored_and_known_ones_must_verify() {
    let (a, b) = (signer("a.example", 1), signer("b.example", 2));
    let both = format!("{TEXT}\n{}{}", line(&b, TEXT), line(&a, TEXT));
    let known = [a.vkey().clone()];
    assert_eq!(verify_note(&both, &known).unwrap().signers(), known);
    assert_eq!(verify_note(&both, &[signer("a.example", 3).vkey().clone()]).err(), {
        Some(NoteError::NoKnownSignature)
    });
    assert_eq!(verify_note(&both, &[]), Err(NoteError::NoKnownSignature));
    let wrong = format!("{TEXT}\n{}{}", line(&a, TEXT), line(&b, "another\n"));
    let known = [a.vkey().clone(), b.vkey().clone()];
    assert_eq!(verify_note(&wrong, &known), Err(NoteError::BadSignature("b.example".into())));
    // The same wrong signature under an unknown key does no harm.
    assert!(verify_note(&wrong, &known[..1]).is_ok());
    let twice = format!("{TEXT}\n{}{}", line(&a, TEXT), line(&a, TEXT));
    assert_eq!(verify_note(&twice, &known).unwrap().signers().len(), 1);
}

#[test]
fn the_number_of_signatures_is_bounded() {
    let known = signer("a.example", 1);
    let with = |unknown: u8| {
        let others: String =
            (0..unknown).map(|n| line(&signer("b.example", 100 + n), TEXT)).collect();
        let note = format!("{TEXT}\n{others}{}", line(&known, TEXT));
        verify_note(&note, std::slice::from_ref(known.vkey()))
    };
    assert!(with(15).is_ok());
    assert!(with(63).is_ok());
    assert_eq!(with(64), Err(NoteError::TooManySignatures { limit: 64 }));
}

#[test]
fn the_last_empty_line_ends_the_text() {
    let key = signer("a.example", 1);
    for text in ["one\n\ntwo\n", "one\n\n", "\n", "\n\n\n", "è subito sera\n"] {
        let note = key.sign(text).unwrap();
        assert_eq!(verify_note(&note, std::slice::from_ref(key.vkey())).unwrap().text(), text);
    }
    // An appended text with its own signatures does not ride on the first signature.
    let note = key.sign(TEXT).unwrap();
    let other = signer("b.example", 2);
    let riding = format!("{note}\n{}", line(&other, TEXT));
    assert!(verify_note(&riding, std::slice::from_ref(key.vkey())).is_err());
}

#[test]
fn malformed_notes_are_refused() {
    let (note, vkey) = vector();
    for bad in [
        String::new(),
        "\n".into(),
        "\n\n".into(),
        TEXT.into(),
        format!("{TEXT}\n"),
        format!("{TEXT}{LINE}"),
        note.trim_end().into(),
        format!("{note}\n"),
        note.replace("— ", "- "),
        note.replace("— ", "—  "),
        note.replace("foo ", "foo  "),
        note.replace("message", "mess\tage"),
        note.replace('\n', "\r\n"),
        format!("{note}— a+b AAAAAAAA\n"),
        format!("{note}— name AAAA\n"),
        format!("{note}— name AAAAAA==\n"),
        format!("{note}— name AAAAAAB=\n"),
        format!("{note}garbage\n"),
    ] {
        assert!(verify_note(&bad, std::slice::from_ref(&vkey)).is_err(), "{bad:?}");
    }
    let key = signer("a.example", 1);
    assert!(key.sign("no newline").is_err());
    assert!(key.sign("").is_err());
    assert!(key.sign("bell\x07\n").is_err());
}

#[test]
fn key_texts_are_strict() {
    for bad in [
        "",
        "example.com/foo",
        "example.com/foo+530d903a",
        "example.com/foo+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/bar+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+AukyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3Q==",
        "example.com/foo+530d903a+",
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
    ] {
        assert!(Vkey::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(
        Vkey::parse("example.com/foo+530d903a+BOkyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"),
        Err(NoteError::UnsupportedKeyType(4))
    );
}

#[test]
fn private_keys_survive_their_text() {
    let key = signer("a.example", 9);
    let text = key.expose_skey().unwrap();
    assert!(text.starts_with("PRIVATE+KEY+a.example+"));
    let back = NoteSigner::from_skey(&text).unwrap();
    assert_eq!(back.vkey(), key.vkey());
    assert_eq!(back.sign(TEXT), key.sign(TEXT));
    assert!(NoteSigner::from_skey(&key.vkey().to_string()).is_err());
    assert!(NoteSigner::from_skey(&text.replace("a.example", "b.example")).is_err());
    assert!(!format!("{key:?}").contains(text.rsplit('+').next().unwrap()));
}
