//! Linkerd's own check that outgoing connections are redirected: a connection to somewhere far away has to come out at a
//! listener here, which proves it with a secret.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::LOOK;
use crate::host::socket::{self, Handshake};

/// The validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validator {
    /// Where to listen: the proxy's port for outgoing connections.
    pub listen: SocketAddr,
    /// Where to connect to: an address that is not routed to anybody.
    pub connect: SocketAddr,
    /// How long it may take.
    pub timeout: Duration,
}

/// Why the networking is not what it has to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The listener's address cannot be had.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, Errno),
    /// There is no connection.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, Errno),
    /// Somebody else answered.
    #[error("the connection to {0} was not redirected to {1}: what came back is not the token that is sent there")]
    Token(SocketAddr, SocketAddr),
    /// Nothing happened.
    #[error("no token came back from {0} within {1:?}")]
    Timeout(SocketAddr, Duration),
}

/// The token's length, with a line's end.
const LENGTH: usize = 64;

impl Validator {
    /// Listens, connects, gives everybody who comes the token, and compares with what the own connection was given.
    pub fn run(&self) -> Result<(), Invalid> {
        let deadline = Instant::now() + self.timeout;
        let (listen, connect) = (self.listen, self.connect);
        let token = token();
        let listener = socket::listen_on(listen, false).map_err(|errno| Invalid::Listen(listen, errno))?;
        tracing::info!("listening on {listen}, connecting to {connect}");
        let mut client = socket::dial(None, connect, Handshake::Full, self.timeout).map_err(|errno| match errno {
            Errno::ETIMEDOUT => Invalid::Timeout(connect, self.timeout),
            errno => Invalid::Connect(connect, errno),
        })?;
        // Blocking would be for as long as the other end likes.
        let failed = |_| Invalid::Connect(connect, Errno::last());
        client.set_read_timeout(Some(LOOK)).map_err(failed)?;
        // Whoever came: a connection that is closed is reset, and a token that was not read yet lost.
        let mut accepted = Vec::new();
        let (mut buffer, mut length) = ([0; LENGTH], 0);
        loop {
            if let Some((mut stream, _)) = socket::accept(&listener) {
                // They may be gone already.
                let _ = stream.write_all(token.as_bytes());
                accepted.push(stream);
            }
            match client.read(&mut buffer[length..]) {
                Ok(0) => return Err(Invalid::Token(connect, listen)),
                Ok(more) => length += more,
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    None | Some(Errno::EAGAIN | Errno::EINTR) => {}
                    Some(errno) => return Err(Invalid::Connect(connect, errno)),
                },
            }
            if length == LENGTH {
                return if buffer == *token.as_bytes() { Ok(()) } else { Err(Invalid::Token(connect, listen)) };
            }
            if Instant::now() >= deadline {
                return Err(Invalid::Timeout(connect, self.timeout));
            }
        }
    }
}

/// Letters and digits that nobody can guess, and a line's end.
fn token() -> String {
    let mut token: String = (0..LENGTH / 16).map(|part| format!("{:016x}", RandomState::new().hash_one(part))).collect();
    token.truncate(LENGTH - 1);
    token.push('\n');
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_another() {
        let (one, other) = (token(), token());
        assert_ne!(one, other);
        for token in [one, other] {
            assert_eq!(token.len(), LENGTH);
            assert!(token.ends_with('\n') && token[..LENGTH - 1].bytes().all(|byte| byte.is_ascii_alphanumeric()), "{token}");
        }
    }
}
