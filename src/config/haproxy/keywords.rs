//! Every keyword that is known, and what becomes of it.
//!
//! A keyword is looked up by its first two words, then by its first. What stands here as ignored is
//! harmless to leave out, and its reason goes into the report; what would change what the relay does
//! is refused, with the remedy.

use super::lexer::Line;
use super::sections::{Kind, Reader};

/// Sections that a keyword may stand in; a `listen` takes those of both halves (manual, 4.1).
pub(super) type Where = u8;
pub(super) const GLOBAL: Where = 1;
pub(super) const DEFAULTS: Where = 2;
pub(super) const FRONT: Where = 4;
pub(super) const BACK: Where = 8;
pub(super) const RESOLVERS: Where = 16;
const SIDES: Where = FRONT | BACK;
const PROXY: Where = DEFAULTS | FRONT | BACK;

/// What becomes of a keyword.
#[derive(Clone, Copy)]
pub(super) enum Treatment {
    /// Read by this.
    Take(fn(&mut Reader, &Line)),
    /// Without effect here, for this reason.
    Ignore(&'static str),
    /// Not to be had, and this is what to do instead.
    Refuse(&'static str),
}

use Treatment::{Ignore, Refuse, Take};

pub(super) struct Keyword {
    /// One word, or two.
    pub(super) name: &'static str,
    pub(super) place: Where,
    pub(super) treatment: Treatment,
}

const fn keyword(name: &'static str, place: Where, treatment: Treatment) -> Keyword {
    Keyword { name, place, treatment }
}

impl Kind {
    pub(super) const fn place(self) -> Where {
        match self {
            Self::Global => GLOBAL,
            Self::Defaults => DEFAULTS,
            Self::Frontend => FRONT,
            Self::Backend => BACK,
            Self::Listen => SIDES,
            Self::Resolvers => RESOLVERS,
        }
    }
}

const ITSELF: &str = "fanin sees to that by itself";
const THREADS: &str = "fanin runs one worker a CPU: [global] workers and pin change that";
const BUFFERS: &str = "fanin has its own buffers, borrowed only while bytes are inside";
const HTTP: &str = "concerns HTTP, and what is relayed here is TCP: its bytes pass unchanged";
const TLS: &str = "TLS passes through unchanged, so there is nothing of it to tune here";
const NO_HTTP: &str = "remove the line: HTTP passes through unchanged, so nothing in it can be \
                       looked at or changed; what needs that stays with HAProxy";
const NO_STICKING: &str = "remove the line: sessions are not tied to servers; to keep a client's \
                           sessions together use \"balance source\"";
const NO_TABLES: &str = "remove the line and what refers to it; limits for each source are \
                         [[listener]] per_source in fanin's own file";
const NO_SWITCHING: &str = "remove the line: `balance` alone says which server a session goes to; give servers \
                            for some sessions alone a backend of their own";
const NO_CODE: &str = "remove the line: fanin runs no code but its own";
const SECTION_3_1: &str = "the unit file of systemd says where and as whom fanin runs";

/// The table, in the order of the manual's sections 3, 4.2 and 5.3.2.
pub(super) const KEYWORDS: &[Keyword] = &[
    // 3.1 Process management and security.
    keyword("log", GLOBAL | PROXY, Take(Reader::log)),
    keyword("log-tag", GLOBAL | PROXY, Take(Reader::log_tag)),
    keyword("log-send-hostname", GLOBAL, Ignore("the log target adds the host's name")),
    keyword("stats socket", GLOBAL, Take(Reader::stats_socket)),
    keyword("stats timeout", GLOBAL, Ignore("a client of the control socket has 5 s")),
    keyword("stats maxconn", GLOBAL, Ignore("8 clients of the control socket at one time")),
    keyword("stats bind-process", GLOBAL, Ignore("one relay process serves all")),
    keyword("chroot", GLOBAL, Ignore(SECTION_3_1)),
    keyword("user", GLOBAL, Ignore(SECTION_3_1)),
    keyword("group", GLOBAL, Ignore(SECTION_3_1)),
    keyword("uid", GLOBAL, Ignore(SECTION_3_1)),
    keyword("gid", GLOBAL, Ignore(SECTION_3_1)),
    keyword("daemon", GLOBAL, Ignore("fanin runs in the foreground, and systemd keeps it")),
    keyword("master-worker", GLOBAL, Ignore(ITSELF)),
    keyword(
        "mworker-max-reloads",
        GLOBAL,
        Ignore("[global] retire bounds how long an old process stays"),
    ),
    keyword("pidfile", GLOBAL, Ignore("systemd knows the process; `fanin status` finds it")),
    keyword("nbproc", GLOBAL, Ignore(THREADS)),
    keyword("nbthread", GLOBAL, Take(Reader::nbthread)),
    keyword("thread-groups", GLOBAL, Ignore(THREADS)),
    keyword("thread-group", GLOBAL, Ignore(THREADS)),
    keyword("cpu-map", GLOBAL, Ignore(THREADS)),
    keyword("cpu-policy", GLOBAL, Ignore(THREADS)),
    keyword("cpu-set", GLOBAL, Ignore(THREADS)),
    keyword("numa-cpu-mapping", GLOBAL, Ignore(THREADS)),
    keyword("ulimit-n", GLOBAL, Ignore("fanin takes the hard limit; LimitNOFILE= sets it")),
    keyword("fd-hard-limit", GLOBAL, Ignore("fanin sizes nothing by the descriptor limit")),
    keyword("strict-limits", GLOBAL, Ignore("limits that do not carry maxconn are always refused")),
    keyword("description", GLOBAL | PROXY, Ignore("it is shown nowhere")),
    keyword("node", GLOBAL, Ignore("the host's own name is shown")),
    keyword("setenv", GLOBAL, Take(Reader::setenv)),
    keyword("presetenv", GLOBAL, Take(Reader::setenv)),
    keyword("unsetenv", GLOBAL, Take(Reader::unsetenv)),
    keyword("resetenv", GLOBAL, Refuse("remove the line, and set what is needed with setenv")),
    keyword("set-dumpable", GLOBAL, Ignore("the system's settings for core files apply")),
    keyword("localpeer", GLOBAL, Ignore("there are no peers")),
    keyword("hard-stop-after", GLOBAL, Take(Reader::hard_stop_after)),
    keyword(
        "close-spread-time",
        GLOBAL,
        Ignore("agents that are told to reconnect do so by themselves"),
    ),
    keyword("grace", GLOBAL, Ignore("a stop begins to drain at once")),
    keyword("ca-base", GLOBAL, Take(Reader::ca_base)),
    keyword("crt-base", GLOBAL, Ignore(TLS)),
    keyword("ssl-server-verify", GLOBAL, Take(Reader::ssl_server_verify)),
    keyword(
        "unix-bind",
        GLOBAL,
        Ignore("fanin listens on TCP, and its control socket is for its owner and group"),
    ),
    keyword("lua-load", GLOBAL, Refuse(NO_CODE)),
    keyword("lua-load-per-thread", GLOBAL, Refuse(NO_CODE)),
    keyword("lua-prepend-path", GLOBAL, Ignore("fanin runs no code but its own")),
    keyword("external-check", GLOBAL, Refuse(NO_CODE)),
    keyword("insecure-fork-wanted", GLOBAL, Ignore("nothing is started beside the relay")),
    keyword("insecure-setuid-wanted", GLOBAL, Ignore("nothing is started beside the relay")),
    keyword("expose-experimental-directives", GLOBAL, Ignore("there are none")),
    keyword(
        "server-state-base",
        GLOBAL,
        Ignore("a reload of servers keeps the process, and what it knows"),
    ),
    keyword(
        "server-state-file",
        GLOBAL,
        Ignore("a reload of servers keeps the process, and what it knows"),
    ),
    // 3.2 Performance tuning.
    keyword("maxconn", GLOBAL | DEFAULTS | FRONT, Take(Reader::maxconn)),
    keyword("maxpipes", GLOBAL, Take(Reader::maxpipes)),
    keyword("maxconnrate", GLOBAL, Refuse(NO_TABLES)),
    keyword("maxsessrate", GLOBAL, Refuse(NO_TABLES)),
    keyword("maxsslconn", GLOBAL, Ignore(TLS)),
    keyword("maxsslrate", GLOBAL, Ignore(TLS)),
    keyword("maxcomprate", GLOBAL, Ignore(HTTP)),
    keyword("maxcompcpuusage", GLOBAL, Ignore(HTTP)),
    keyword("maxzlibmem", GLOBAL, Ignore(HTTP)),
    keyword("nosplice", GLOBAL, Take(Reader::nosplice)),
    keyword("noepoll", GLOBAL, Ignore("[global] engine chooses between epoll and io_uring")),
    keyword("nopoll", GLOBAL, Ignore("[global] engine chooses between epoll and io_uring")),
    keyword("nokqueue", GLOBAL, Ignore("that is not for Linux")),
    keyword("noevports", GLOBAL, Ignore("that is not for Linux")),
    keyword("nogetaddrinfo", GLOBAL, Ignore("names are looked up off the data path")),
    keyword("noreuseport", GLOBAL, Ignore("each worker has a listening socket of its own")),
    keyword("busy-polling", GLOBAL, Ignore("a worker sleeps when there is nothing to do")),
    keyword("no-memory-trimming", GLOBAL, Ignore(BUFFERS)),
    keyword("profiling.tasks", GLOBAL, Ignore("`fanin status` has the workers' times")),
    keyword("quiet", GLOBAL, Ignore("it concerns messages at the start")),
    keyword("zero-warning", GLOBAL, Ignore("this report takes the place of warnings")),
    keyword("debug", GLOBAL, Ignore("it concerns messages")),
    keyword("spread-checks", GLOBAL, Take(Reader::spread_checks)),
    keyword("max-spread-checks", GLOBAL, Ignore("checks are always spread over their interval")),
    // 4.2 Proxies.
    keyword("mode", PROXY, Take(Reader::mode)),
    keyword("bind", FRONT, Take(Reader::bind)),
    keyword("server", BACK, Take(Reader::server)),
    keyword("server-template", BACK, Take(Reader::server_template)),
    keyword("default-server", DEFAULTS | BACK, Take(Reader::default_server)),
    keyword("default_backend", DEFAULTS | FRONT, Take(Reader::default_backend)),
    keyword("balance", DEFAULTS | BACK, Take(Reader::balance)),
    keyword("backlog", DEFAULTS | FRONT, Take(Reader::backlog)),
    keyword("retries", DEFAULTS | BACK, Take(Reader::retries)),
    keyword("fullconn", DEFAULTS | BACK, Ignore("it has a meaning with minconn alone")),
    keyword("source", DEFAULTS | BACK, Take(Reader::source)),
    keyword("acl", SIDES, Take(Reader::acl)),
    keyword("tcp-request connection", FRONT, Take(Reader::tcp_request)),
    keyword(
        "tcp-request session",
        SIDES,
        Refuse("write it as `tcp-request connection`, which sees the same addresses"),
    ),
    keyword("tcp-request content", SIDES, Take(Reader::tcp_content)),
    keyword("tcp-request inspect-delay", PROXY, Take(Reader::inspect_delay)),
    keyword("tcp-response", SIDES, Refuse("remove the line: bytes are not looked at")),
    keyword("enabled", PROXY, Ignore("that is what it is")),
    keyword("disabled", PROXY, Refuse("remove the section, or this line")),
    keyword("id", SIDES, Ignore("names serve as identities")),
    keyword("bind-process", PROXY, Ignore("one relay process serves all")),
    keyword("grace", PROXY, Ignore("a stop begins to drain at once")),
    keyword("rate-limit sessions", DEFAULTS | FRONT, Take(Reader::rate_limit)),
    keyword("timeout", PROXY | RESOLVERS, Take(Reader::timeout)),
    keyword("clitimeout", PROXY, Take(Reader::timeout)),
    keyword("srvtimeout", PROXY, Take(Reader::timeout)),
    keyword("contimeout", PROXY, Take(Reader::timeout)),
    keyword("stats", PROXY, Take(Reader::stats)),
    keyword("option redispatch", DEFAULTS | BACK, Take(Reader::redispatch)),
    keyword("redispatch", DEFAULTS | BACK, Take(Reader::redispatch)),
    keyword("option dontlognull", DEFAULTS | FRONT, Take(Reader::dontlognull)),
    keyword("option dontlog-normal", DEFAULTS | FRONT, Take(Reader::dontlog_normal)),
    keyword("option tcplog", DEFAULTS | FRONT, Take(Reader::tcplog)),
    keyword(
        "option httplog",
        DEFAULTS | FRONT,
        Ignore("what is relayed is TCP, and its line is written"),
    ),
    keyword("option logasap", DEFAULTS | FRONT, Ignore("a session's line is written at its end")),
    keyword(
        "option log-health-checks",
        DEFAULTS | BACK,
        Ignore("each change of a server's state is logged"),
    ),
    keyword(
        "option log-separate-errors",
        DEFAULTS | FRONT,
        Ignore("the line says how a session ended"),
    ),
    keyword("option socket-stats", DEFAULTS | FRONT, Ignore("each listener is counted")),
    keyword("option contstats", DEFAULTS | FRONT, Ignore("bytes are counted as they move")),
    keyword("option tcpka", PROXY, Take(Reader::tcp_keepalive)),
    keyword("option clitcpka", DEFAULTS | FRONT, Take(Reader::tcp_keepalive)),
    keyword("option srvtcpka", DEFAULTS | BACK, Take(Reader::tcp_keepalive)),
    keyword("clitcpka-cnt", DEFAULTS | FRONT, Ignore("the idle timeouts find peers that are gone")),
    keyword(
        "clitcpka-idle",
        DEFAULTS | FRONT,
        Ignore("the idle timeouts find peers that are gone"),
    ),
    keyword(
        "clitcpka-intvl",
        DEFAULTS | FRONT,
        Ignore("the idle timeouts find peers that are gone"),
    ),
    keyword("srvtcpka-cnt", DEFAULTS | BACK, Ignore("the idle timeouts find peers that are gone")),
    keyword("srvtcpka-idle", DEFAULTS | BACK, Ignore("the idle timeouts find peers that are gone")),
    keyword(
        "srvtcpka-intvl",
        DEFAULTS | BACK,
        Ignore("the idle timeouts find peers that are gone"),
    ),
    keyword(
        "option tcp-smart-accept",
        DEFAULTS | FRONT,
        Ignore("it saves an ACK where the kernel can"),
    ),
    keyword(
        "option tcp-smart-connect",
        DEFAULTS | BACK,
        Ignore("it saves an ACK where the kernel can"),
    ),
    keyword(
        "option nolinger",
        PROXY,
        Refuse(
            "remove the line: it resets connections whose last bytes are still on their way; source ports do not run out here",
        ),
    ),
    keyword(
        "option abortonclose",
        DEFAULTS | BACK,
        Ignore("a client that is gone is always noticed"),
    ),
    keyword(
        "option allbackups",
        DEFAULTS | BACK,
        Ignore("all backup servers share the sessions when no other is left"),
    ),
    keyword("option persist", DEFAULTS | BACK, Refuse(NO_STICKING)),
    keyword("option splice-auto", PROXY, Take(Reader::splice)),
    keyword("option splice-request", PROXY, Take(Reader::splice)),
    keyword("option splice-response", PROXY, Take(Reader::splice)),
    keyword(
        "option transparent",
        DEFAULTS | BACK,
        Refuse("remove the line: sessions go to the servers that are listed"),
    ),
    keyword(
        "option http_proxy",
        PROXY,
        Refuse(
            "remove the line; a listener that is a web proxy is mode = \"proxy\" in fanin's own file",
        ),
    ),
    keyword("option tcp-check", DEFAULTS | BACK, Take(Reader::option_check)),
    keyword("option httpchk", DEFAULTS | BACK, Take(Reader::option_check)),
    keyword("option ssl-hello-chk", DEFAULTS | BACK, Take(Reader::option_check)),
    keyword("option external-check", DEFAULTS | BACK, Refuse(NO_CODE)),
    keyword("option ldap-check", DEFAULTS | BACK, Refuse("use \"option tcp-check\"")),
    keyword("option mysql-check", DEFAULTS | BACK, Refuse("use \"option tcp-check\"")),
    keyword("option pgsql-check", DEFAULTS | BACK, Refuse("use \"option tcp-check\"")),
    keyword("option redis-check", DEFAULTS | BACK, Refuse("use \"option tcp-check\"")),
    keyword("option smtpchk", DEFAULTS | BACK, Refuse("use \"option tcp-check\"")),
    keyword("option spop-check", DEFAULTS | BACK, Refuse("use \"option tcp-check\"")),
    keyword("http-check", DEFAULTS | BACK, Take(Reader::http_check)),
    keyword("tcp-check", DEFAULTS | BACK, Take(Reader::tcp_check)),
    keyword("use_backend", FRONT, Take(Reader::use_backend)),
    keyword("use-server", BACK, Refuse(NO_SWITCHING)),
    keyword("force-persist", SIDES, Refuse(NO_STICKING)),
    keyword("ignore-persist", SIDES, Refuse(NO_STICKING)),
    keyword("persist", PROXY, Refuse(NO_STICKING)),
    keyword("cookie", PROXY, Refuse(NO_STICKING)),
    keyword("stick", BACK, Refuse(NO_STICKING)),
    keyword("stick-table", SIDES, Refuse(NO_TABLES)),
    keyword("dispatch", BACK, Refuse("write a `server` line")),
    keyword("hash-type", DEFAULTS | BACK, Take(Reader::hash_type)),
    keyword(
        "hash-balance-factor",
        DEFAULTS | BACK,
        Ignore("balance \"source\" passes a full server over"),
    ),
    keyword(
        "load-server-state-from-file",
        DEFAULTS | BACK,
        Ignore("a reload of servers keeps the process, and what it knows"),
    ),
    keyword(
        "server-state-file-name",
        DEFAULTS | BACK,
        Ignore("a reload of servers keeps the process, and what it knows"),
    ),
    keyword("log-format", DEFAULTS | FRONT, Ignore("the line of `option tcplog` is written")),
    keyword("log-format-sd", DEFAULTS | FRONT, Ignore("the line of `option tcplog` is written")),
    keyword("unique-id-format", DEFAULTS | FRONT, Ignore("no identities are made up")),
    keyword("unique-id-header", DEFAULTS | FRONT, Ignore(HTTP)),
    keyword("max-keep-alive-queue", DEFAULTS | BACK, Ignore(HTTP)),
    keyword("max-session-srv-conns", DEFAULTS | FRONT, Ignore(HTTP)),
    keyword("errorfile", PROXY, Ignore(HTTP)),
    keyword("errorfiles", PROXY, Ignore(HTTP)),
    keyword("errorloc", PROXY, Ignore(HTTP)),
    keyword("errorloc302", PROXY, Ignore(HTTP)),
    keyword("errorloc303", PROXY, Ignore(HTTP)),
    keyword("monitor-net", DEFAULTS | FRONT, Refuse(NO_HTTP)),
    keyword("monitor-uri", DEFAULTS | FRONT, Refuse(NO_HTTP)),
    keyword("monitor", FRONT, Refuse(NO_HTTP)),
    keyword("compression", PROXY, Refuse(NO_HTTP)),
    keyword("filter", SIDES, Refuse(NO_HTTP)),
    keyword("capture", SIDES, Refuse(NO_HTTP)),
    keyword("redirect", SIDES, Refuse(NO_HTTP)),
    keyword("http-request", PROXY, Refuse(NO_HTTP)),
    keyword("http-response", PROXY, Refuse(NO_HTTP)),
    keyword("http-after-response", PROXY, Refuse(NO_HTTP)),
    keyword("http-reuse", PROXY, Ignore(HTTP)),
    keyword("http-send-name-header", PROXY, Refuse(NO_HTTP)),
    keyword("http-error", PROXY, Ignore(HTTP)),
    keyword("declare", SIDES, Refuse(NO_HTTP)),
    keyword("reqrep", PROXY, Refuse(NO_HTTP)),
    keyword("rspadd", PROXY, Refuse(NO_HTTP)),
    keyword("reqadd", PROXY, Refuse(NO_HTTP)),
    keyword(
        "email-alert",
        PROXY,
        Ignore("no mails are sent; /metrics and the log tell of changes"),
    ),
    keyword("external-check", PROXY, Refuse(NO_CODE)),
    keyword(
        "transparent",
        PROXY,
        Refuse("remove the line: sessions go to the servers that are listed"),
    ),
    // 5.3.2 The resolvers section.
    keyword("nameserver", RESOLVERS, Take(Reader::nameserver)),
    keyword("parse-resolv-conf", RESOLVERS, Take(Reader::parse_resolv_conf)),
    keyword("hold", RESOLVERS, Take(Reader::hold)),
    keyword("resolve_retries", RESOLVERS, Take(Reader::resolve_retries)),
    keyword(
        "accepted_payload_size",
        RESOLVERS,
        Ignore("answers that do not fit are asked for again over TCP"),
    ),
];

/// Keywords that stand for all that begin so.
pub(super) const FAMILIES: &[Keyword] = &[
    keyword("tune.", GLOBAL, Ignore(BUFFERS)),
    keyword("ssl-", GLOBAL, Ignore(TLS)),
    keyword("51degrees-", GLOBAL, Ignore(HTTP)),
    keyword("deviceatlas-", GLOBAL, Ignore(HTTP)),
    keyword("wurfl-", GLOBAL, Ignore(HTTP)),
    keyword("h1-", GLOBAL, Ignore(HTTP)),
    keyword("h2-", GLOBAL, Ignore(HTTP)),
    keyword("httpclient.", GLOBAL, Ignore(HTTP)),
    keyword("option http", PROXY, Ignore(HTTP)),
    keyword(
        "option forwardfor",
        PROXY,
        Ignore(
            "an HTTP header, and bytes pass unchanged; the PROXY protocol tells servers the client's address",
        ),
    ),
    keyword("option originalto", PROXY, Ignore(HTTP)),
    keyword("option forceclose", PROXY, Ignore(HTTP)),
    keyword("option accept-invalid-http", PROXY, Ignore(HTTP)),
    keyword("option checkcache", PROXY, Ignore(HTTP)),
    keyword("option h1-", PROXY, Ignore(HTTP)),
    keyword("option disable-h2", PROXY, Ignore(HTTP)),
    keyword("option prefer-last-server", PROXY, Ignore(HTTP)),
    keyword("option dontlog", PROXY, Ignore("the log has its own settings")),
    keyword(
        "option independent-streams",
        PROXY,
        Ignore("each side has a timeout of its own already"),
    ),
    keyword(
        "option independant-streams",
        PROXY,
        Ignore("each side has a timeout of its own already"),
    ),
];

/// What is known of a line's keyword, with the number of words that it is.
pub(super) fn find(first: &str, second: &str, place: Where) -> Option<(&'static Keyword, usize)> {
    let two = format!("{first} {second}");
    let of = |name: &str| {
        let named = || KEYWORDS.iter().filter(|keyword| keyword.name == name);
        named().find(|keyword| keyword.place & place != 0).or_else(|| named().next())
    };
    let family = || {
        FAMILIES
            .iter()
            .find(|family| two.starts_with(family.name))
            .map(|family| (family, if family.name.contains(' ') { 2 } else { 1 }))
    };
    of(&two)
        .map(|keyword| (keyword, 2))
        .or_else(|| of(first).map(|keyword| (keyword, 1)))
        .or_else(family)
}

/// The names of keywords that may stand in a section, for suggestions.
pub(super) fn names(place: Where) -> impl Iterator<Item = &'static str> {
    KEYWORDS.iter().filter(move |keyword| keyword.place & place != 0).map(|keyword| keyword.name)
}
