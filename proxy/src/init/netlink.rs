//! The nf_tables socket: sends a ruleset in one batch, which the kernel takes as a whole or not at all, and reads back
//! what is in force. The only part of `init` that needs the capability NET_ADMIN.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{
    message::{Batch, Written},
    reply::{Reply, replies},
    rules::Family,
};

/// `AF_NETLINK` and `NETLINK_NETFILTER`.
const AF_NETLINK: i32 = 16;
const NETFILTER: i32 = 12;
/// The kernel answers while it is called; this is for one that never will.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the kernel writes at once into one read of a list is at most 32 KiB.
const READ: usize = 64 * 1024;
/// Room for an acknowledgement of every message of the largest batch (three full skip lists).
const RECEIVE_BUFFER: usize = 4 << 20;
const SEND_BUFFER: usize = 2 << 20;
const EPERM: i32 = 1;

/// Why rules are not in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetlinkError {
    /// The process may not.
    #[error(
        "not permitted to write nftables rules: the container needs the capability NET_ADMIN; set \
         securityContext.capabilities.add: [\"NET_ADMIN\"] on it, and keep the file capability of the image's /mesh-proxy"
    )]
    NotPermitted,
    /// The kernel refuses a part.
    #[error("the kernel refused {about}: {error}; it needs nf_tables with NAT (CONFIG_NFT_NAT, CONFIG_NFT_REDIR)")]
    Refused {
        /// Which part.
        about: String,
        /// Why.
        error: io::Error,
    },
    /// The socket does not work.
    #[error("no answer from the kernel's nf_tables: {0}; is it built in or loaded (CONFIG_NF_TABLES)?")]
    Socket(#[from] io::Error),
}

/// A socket to nf_tables of this network namespace.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// Opens the socket.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETFILTER)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // Without the privilege to exceed the system's limits they are cut to them, which serves for usual lists.
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.set_send_buffer_size(SEND_BUFFER)?;
        Ok(Self { socket })
    }

    /// Sends a batch and waits until all of it is in force. The first refusal is the error; then nothing changed.
    pub(super) fn commit(&mut self, batch: &Batch) -> Result<(), NetlinkError> {
        self.socket.write_all(batch.bytes())?;
        let mut left = batch.acknowledged();
        while left > 0 {
            for reply in self.read()? {
                match reply {
                    Reply::Answer(_, 0) => left = left.saturating_sub(1),
                    Reply::Answer(_, EPERM) => return Err(NetlinkError::NotPermitted),
                    Reply::Answer(number, code) => {
                        let about =
                            batch.about.get((number as usize).wrapping_sub(1)).filter(|about| !about.is_empty());
                        let about = about.map_or_else(|| "the batch".to_owned(), Clone::clone);
                        return Err(NetlinkError::Refused { about, error: io::Error::from_raw_os_error(code) });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The rules in force, and the chains that hang on a hook.
    pub(super) fn read_back(&mut self, family: Family) -> Result<(Written, Vec<String>), NetlinkError> {
        let (mut rules, mut hooked) = (Vec::new(), Vec::new());
        for what in [true, false] {
            self.socket.write_all(Batch::list(family, what).bytes())?;
            'list: loop {
                for reply in self.read()? {
                    match reply {
                        Reply::Rule(chain, comment, names) => rules.push((chain, comment, names)),
                        Reply::Hooked(chain) => hooked.push(chain),
                        Reply::Done => break 'list,
                        Reply::Answer(_, EPERM) => return Err(NetlinkError::NotPermitted),
                        Reply::Answer(_, 0) | Reply::Other => {}
                        Reply::Answer(_, code) => {
                            let error = io::Error::from_raw_os_error(code);
                            return Err(NetlinkError::Refused { about: "to list what was written".into(), error });
                        }
                    }
                }
            }
        }
        Ok((rules, hooked))
    }

    fn read(&mut self) -> io::Result<Vec<Reply>> {
        let mut space = vec![0; READ];
        let read = self.socket.read(&mut space)?;
        Ok(replies(&space[..read]))
    }
}
