//! Opens signed checkpoints, many at once.

use std::thread;

use grantwright_proof::{Checkpoint, Vkey, verify_note};

/// Verifies each note under `vkey`; in the same order. The origin is left to the caller.
pub(crate) fn open_all(notes: &[(u64, String)], vkey: &Vkey) -> Vec<Result<Checkpoint, String>> {
    let threads = thread::available_parallelism().map_or(2, usize::from).clamp(1, 8);
    let share = notes.len().div_ceil(threads).max(1);
    if notes.len() < 64 {
        return notes.iter().map(|(_, note)| open(note, vkey)).collect();
    }
    thread::scope(|scope| {
        let parts: Vec<_> = notes
            .chunks(share)
            .map(|part| {
                let work = move || part.iter().map(|(_, n)| open(n, vkey)).collect::<Vec<_>>();
                (part.len(), scope.spawn(work))
            })
            .collect();
        parts
            .into_iter()
            .flat_map(|(len, part)| {
                part.join().unwrap_or_else(|_| vec![Err("not verified".into()); len])
            })
            .collect()
    })
}

/// Verifies one note.
pub(crate) fn open(note: &str, vkey: &Vkey) -> Result<Checkpoint, String> {
    let note = verify_note(note, std::slice::from_ref(vkey)).map_err(|e| e.to_string())?;
    Checkpoint::parse(note.text()).map_err(|e| e.to_string())
}
