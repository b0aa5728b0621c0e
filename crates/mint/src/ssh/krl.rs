//! Key revocation lists (OpenSSH's PROTOCOL.krl): serial numbers of one authority's certificates.

use grantwright_domain::Timestamp;

use super::packet::Packet;

const MAGIC: &[u8; 8] = b"SSHKRL\n\0";
const FORMAT: u32 = 1;
const SECTION_CERTIFICATES: u8 = 1;
const SECTION_SERIAL_LIST: u8 = 0x20;

/// The list of these serial numbers. Its version is the time: a later list has a higher one.
pub(super) fn list(ca: &[u8], serials: impl Iterator<Item = u64>, now: Timestamp) -> Vec<u8> {
    let mut serials: Vec<u64> = serials.collect();
    serials.sort_unstable();
    serials.dedup();
    let mut out = Packet::default();
    out.raw(MAGIC);
    out.u32(FORMAT);
    out.u64(now.millis().max(0).unsigned_abs());
    out.u64(now.seconds().max(0).unsigned_abs());
    out.u64(0);
    out.string(&[]);
    out.text("grantwright");
    if !serials.is_empty() {
        let mut list = Packet::default();
        serials.iter().for_each(|n| list.u64(*n));
        let mut section = Packet::default();
        section.string(ca);
        section.string(&[]);
        section.byte(SECTION_SERIAL_LIST);
        section.string(list.bytes());
        out.byte(SECTION_CERTIFICATES);
        out.string(section.bytes());
    }
    out.into_bytes()
}
