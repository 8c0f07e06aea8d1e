//! PURE: every way in which an exchange can fail, by the phase in which it failed.

use std::io;

/// Why an exchange did not end with a good reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Failure {
    /// ECONNREFUSED: nothing listens, or the accept queue answered with a reset.
    ConnectRefused,
    /// No answer to the connect within the timeout.
    ConnectTimeout,
    /// EHOSTUNREACH, ENETUNREACH and their kin: no way to the target.
    ConnectUnreachable,
    /// EADDRNOTAVAIL: no source port left; a limit of this machine, not of the target.
    ConnectPortExhausted,
    /// EMFILE or ENFILE: no descriptor left; a limit of this machine, not of the target.
    ConnectFdLimit,
    /// Any other errno of socket(2), bind(2) or connect(2).
    ConnectOther,
    /// The certificate is not one to trust, or names somebody else.
    TlsCertificate,
    /// No TLS, or none that both sides speak.
    TlsHandshake,
    /// ECONNRESET or ECONNABORTED.
    IoReset,
    /// EPIPE: written to a connection that the peer had closed.
    IoBrokenPipe,
    /// The stream ended before the reply was complete.
    IoEofEarly,
    /// Any other errno of a read or write.
    IoOther,
    /// The proxy opened no tunnel.
    ProtoProxyRefused,
    /// A complete reply whose status is not 2xx.
    ProtoBadStatus,
    /// Bytes that are no HTTP reply, or the reply to another request.
    ProtoBadReply,
    /// No complete reply within the agent's own timeout.
    TimeReplyTimeout,
    /// Due before the end of the run, never sent.
    TimeUnsent,
    /// Sent before the end of the run, no reply when it ended.
    TimeUnanswered,
}

impl Failure {
    /// How many kinds there are.
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// All kinds, in the order of reports.
    pub(crate) const ALL: [Self; 18] = [
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectUnreachable,
        Self::ConnectPortExhausted,
        Self::ConnectFdLimit,
        Self::ConnectOther,
        Self::TlsCertificate,
        Self::TlsHandshake,
        Self::IoReset,
        Self::IoBrokenPipe,
        Self::IoEofEarly,
        Self::IoOther,
        Self::ProtoProxyRefused,
        Self::ProtoBadStatus,
        Self::ProtoBadReply,
        Self::TimeReplyTimeout,
        Self::TimeUnsent,
        Self::TimeUnanswered,
    ];

    /// Position in a table of counts.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// The name used in the report and in JSON.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect.refused",
            Self::ConnectTimeout => "connect.timeout",
            Self::ConnectUnreachable => "connect.unreachable",
            Self::ConnectPortExhausted => "connect.port_exhausted",
            Self::ConnectFdLimit => "connect.fd_limit",
            Self::ConnectOther => "connect.other",
            Self::TlsCertificate => "tls.certificate",
            Self::TlsHandshake => "tls.handshake",
            Self::IoReset => "io.reset",
            Self::IoBrokenPipe => "io.broken_pipe",
            Self::IoEofEarly => "io.eof_early",
            Self::IoOther => "io.other",
            Self::ProtoProxyRefused => "proto.proxy_refused",
            Self::ProtoBadStatus => "proto.bad_status",
            Self::ProtoBadReply => "proto.bad_reply",
            Self::TimeReplyTimeout => "time.reply_timeout",
            Self::TimeUnsent => "time.unsent",
            Self::TimeUnanswered => "time.unanswered",
        }
    }

    /// True when the exchange's age at its end is a lower bound of its latency.
    ///
    /// A refused connection is quick and says nothing of latency; waiting in vain does.
    pub(crate) fn age_counts(self) -> bool {
        matches!(
            self,
            Self::ConnectTimeout | Self::TimeReplyTimeout | Self::TimeUnsent | Self::TimeUnanswered
        )
    }

    /// What an error of socket(2), bind(2) or connect(2) means.
    pub(crate) fn of_connect(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Self::ConnectRefused,
            Some(libc::ETIMEDOUT) => Self::ConnectTimeout,
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN) => {
                Self::ConnectUnreachable
            }
            Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => Self::ConnectPortExhausted,
            Some(libc::EMFILE | libc::ENFILE) => Self::ConnectFdLimit,
            Some(libc::ECONNRESET | libc::ECONNABORTED) => Self::IoReset,
            _ => Self::ConnectOther,
        }
    }

    /// What an error of a read or write means.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNRESET | libc::ECONNABORTED) => Self::IoReset,
            Some(libc::EPIPE | libc::ENOTCONN) => Self::IoBrokenPipe,
            Some(libc::ETIMEDOUT) => Self::TimeReplyTimeout,
            _ => Self::IoOther,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_place_and_label() {
        for (place, failure) in Failure::ALL.iter().enumerate() {
            assert_eq!(failure.index(), place);
            let namesakes = Failure::ALL.iter().filter(|f| f.label() == failure.label()).count();
            assert_eq!(namesakes, 1, "{}", failure.label());
        }
    }

    #[test]
    fn limits_of_this_machine_are_told_from_faults_of_the_target() {
        let of = |errno| Failure::of_connect(&io::Error::from_raw_os_error(errno));
        assert_eq!(of(libc::EADDRNOTAVAIL), Failure::ConnectPortExhausted);
        assert_eq!(of(libc::EMFILE), Failure::ConnectFdLimit);
        assert_eq!(of(libc::ECONNREFUSED), Failure::ConnectRefused);
        assert_eq!(of(libc::EACCES), Failure::ConnectOther);
    }
}
