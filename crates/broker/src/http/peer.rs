//! Who is at the other end of a connection: the address, and on this very host the user whose socket
//! it is.
//!
//! Cookies know no ports: a browser shows those of `http://localhost:8080` to every server on this
//! host. So a session that begins here is its user's, by the kernel's word: to another user, whose
//! server was shown the cookie, it opens nothing. From programs of the same user, who can read the
//! browser's own files, nothing here protects.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tokio::sync::OnceCell;

use crate::core::Broker;

/// The kernel's lists of connections (proc(5)); the other end may have opened either kind of socket.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// `st` of a connection that is over: nobody's any more.
const TIME_WAIT: &str = "06";

/// See the module; in the extensions of each call that came over a socket.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Theirs and ours.
    ends: Option<(SocketAddr, SocketAddr)>,
    /// Looked up once.
    user: Arc<OnceCell<Option<u32>>>,
}

impl Peer {
    /// Of a connection between these ends.
    #[must_use]
    pub fn new(theirs: SocketAddr, ours: SocketAddr) -> Self {
        Self { ends: Some((theirs, ours)), user: Arc::default() }
    }

    /// Whose calls are counted together: an address, of IPv6 the network that one customer has.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        let (theirs, _) = self.ends?;
        Some(match theirs.ip().to_canonical() {
            IpAddr::V6(six) if !six.is_loopback() => {
                let [a, b, c, d, ..] = six.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            address => address,
        })
    }

    /// The user whose socket the other end is, where that is on this host; none: elsewhere, or the
    /// kernel does not say.
    pub async fn user(&self) -> Option<u32> {
        let (theirs, ours) = self.ends?;
        let here = theirs.ip().to_canonical().is_loopback() || theirs.ip() == ours.ip();
        if !here {
            return None;
        }
        let look = async {
            let looked = tokio::task::spawn_blocking(move || {
                let tables = TABLES.iter().filter_map(|table| std::fs::read_to_string(table).ok());
                tables.into_iter().find_map(|table| owner(&table, theirs, ours))
            });
            looked.await.ok().flatten()
        };
        *self.user.get_or_init(|| look).await
    }
}

impl FromRequestParts<Arc<Broker>> for Peer {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &Arc<Broker>) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// The `uid` of the socket between these ends, in a table of proc(5).
fn owner(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let is = |text: &str, end: SocketAddr| {
        endpoint(text).is_some_and(|(ip, port)| ip == end.ip().to_canonical() && port == end.port())
    };
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (mine, other, state) = (fields.next()?, fields.next()?, fields.next()?);
        if state == TIME_WAIT || !is(mine, local) || !is(other, remote) {
            return None;
        }
        fields.nth(3)?.parse().ok()
    })
}

/// `0100007F:1F90`: the address's 32-bit words as this machine orders their bytes, and the port.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at..at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let bytes = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical()
        }
        _ => return None,
    };
    Some((ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_says_whose_socket_it_is() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = tokio::net::TcpListener::bind(address).await else { continue };
            let ours = listener.local_addr().unwrap();
            let stream = tokio::net::TcpStream::connect(ours).await.unwrap();
            let (_accepted, theirs) = listener.accept().await.unwrap();
            let me = rustix::process::getuid().as_raw();
            assert_eq!(Peer::new(theirs, ours).user().await, Some(me), "{address}");
            // No such connection, and one from elsewhere.
            let nobody = SocketAddr::new(theirs.ip(), 1);
            assert_eq!(Peer::new(nobody, ours).user().await, None);
            let far = "192.0.2.1:5".parse().unwrap();
            assert_eq!(Peer::new(far, ours).user().await, None);
            drop(stream);
        }
    }

    #[test]
    fn a_table_of_proc_is_read_as_the_kernel_writes_it() {
        let head =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";
        let word = |a: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(a));
        let loopback = word([127, 0, 0, 1]);
        let row = |state: &str, uid: u32| {
            format!(
                "   0: {loopback}:A1B2 {loopback}:1F90 {state} 00000000:00000000 00:00000000 00000000  {uid}        0 1 1\n"
            )
        };
        let (theirs, ours) =
            ("127.0.0.1:41394".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        let table = format!("{head}{}{}", row("06", 0), row("01", 1000));
        assert_eq!(owner(&table, theirs, ours), Some(1000), "what is over is nobody's");
        assert_eq!(owner(&table, ours, theirs), None, "the other end is another socket");
        assert_eq!(owner("", theirs, ours), None);
        assert_eq!(owner(&format!("{head}garbage\n"), theirs, ours), None);
        let mapped =
            format!("{}{}{}{loopback}:1F90", word([0; 4]), word([0; 4]), word([0, 0, 255, 255]));
        assert_eq!(endpoint(&mapped), Some((IpAddr::V4(Ipv4Addr::LOCALHOST), 8080)));
    }

    #[test]
    fn a_customers_network_counts_as_one() {
        let of = |ip: &str| {
            let theirs = SocketAddr::new(ip.parse().unwrap(), 1);
            Peer::new(theirs, "10.0.0.1:1".parse().unwrap()).address().unwrap().to_string()
        };
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::1"), "::1");
    }
}
