//! What is told with the nature and the type of each field: `typed` and `json` of `show stat` and `show info` (management
//! guide, 9.2). An empty cell is no field.

use serde::Serialize;

use super::stat::{BACKEND, COLUMNS, Row};

/// Columns of one nature and type. The letters are those of `typed`: where a field comes from, what it
/// is, what it is about.
const NATURES: &[(&str, &str, &str)] = &[
    ("KNS", "str", "pxname svname"),
    ("KGP", "u32", "pid"),
    ("KGS", "u32", "iid sid"),
    ("CGS", "u32", "type check_rise check_fall check_health"),
    ("CGS", "str", "mode addr algo proto"),
    ("CLP", "u32", "slim rate_lim qlimit"),
    ("SGP", "str", "status"),
    ("SGP", "u32", "act bck"),
    ("MGP", "u32", "qcur scur"),
    ("MMP", "u32", "qmax smax rate_max conn_rate_max"),
    ("MRP", "u32", "rate conn_rate"),
    ("MaP", "u32", "weight uweight throttle qtime ctime rtime ttime"),
    ("MAP", "u32", "lastchg"),
    ("MAP", "s32", "lastsess"),
    ("MMP", "u32", "qtime_max ctime_max rtime_max ttime_max"),
    ("MOP", "u32", "check_code"),
    (
        "MGP",
        "u32",
        "srv_icur idle_conn_cur safe_conn_cur used_conn_cur need_conn_est agg_server_status \
         agg_server_check_status agg_check_status",
    ),
    ("MCP", "u32", "downtime"),
    ("MDP", "u64", "check_duration"),
    ("MOP", "str", "check_status last_chk check_desc"),
];
/// What a column is that is named nowhere there.
const COUNTER: (&str, &str) = ("MCP", "u64");
/// Columns that are gauges of the process in the row of a backend.
const GAUGES_OF_BACKENDS: [&str; 4] = ["rate", "rate_max", "act", "bck"];

/// By [`Row::kind`]: the letter, the word.
const OBJECTS: [(char, &str); 3] = [('F', "Frontend"), ('B', "Backend"), ('S', "Server")];

/// A field as `json` has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Field<'a> {
    obj_type: &'static str,
    proxy_id: u64,
    id: u64,
    field: Place<'a>,
    process_num: u8,
    tags: Tags,
    value: Value<'a>,
}

/// A line of `show info` as `json` has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InfoField<'a> {
    field: Place<'a>,
    process_num: u8,
    tags: Tags,
    value: Value<'a>,
}

#[derive(Serialize)]
struct Place<'a> {
    pos: usize,
    name: &'a str,
}

#[derive(Serialize)]
struct Tags {
    origin: &'static str,
    nature: &'static str,
    scope: &'static str,
}

#[derive(Serialize)]
struct Value<'a> {
    r#type: &'static str,
    value: Plain<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Plain<'a> {
    Number(i64),
    Text(&'a str),
}

/// `F.1.0.7.stot.1:MCP:u64:12`, a line each.
pub(super) fn lines<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let mut out = String::new();
    for row in rows {
        for (pos, name, cell) in fields(row) {
            let (letters, kind) = nature(row, name);
            let (object, _) = OBJECTS[usize::from(row.kind)];
            let Row { proxy, server, .. } = row;
            out += &format!("{object}.{proxy}.{server}.{pos}.{name}.1:{letters}:{kind}:{cell}\n");
        }
    }
    out
}

/// A list with a list of fields for each row.
pub(super) fn json<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let rows: Vec<Vec<Field<'_>>> =
        rows.map(|row| fields(row).map(|field| json_field(row, field)).collect()).collect();
    // Strings and numbers alone: that cannot fail.
    serde_json::to_string(&rows).unwrap_or_default() + "\n"
}

fn json_field<'a>(row: &Row, (pos, name, cell): (usize, &'a str, &'a str)) -> Field<'a> {
    let (letters, kind) = nature(row, name);
    Field {
        obj_type: OBJECTS[usize::from(row.kind)].1,
        proxy_id: row.proxy,
        id: row.server,
        field: Place { pos, name },
        process_num: 1,
        tags: tags(letters),
        value: plain(kind, cell),
    }
}

/// The cells that are not empty, with the places and names of their columns.
fn fields(row: &Row) -> impl Iterator<Item = (usize, &'static str, &str)> {
    let cells = COLUMNS.split(',').zip(&row.cells).enumerate();
    let cells = cells.map(|(pos, (name, cell))| (pos, name, cell.as_str()));
    cells.filter(|(_, _, cell)| !cell.is_empty())
}

fn nature(row: &Row, name: &str) -> (&'static str, &'static str) {
    if row.kind == BACKEND && GAUGES_OF_BACKENDS.contains(&name) {
        return ("MGP", "u32");
    }
    let is = |columns: &str| columns.split(' ').any(|column| column == name);
    let found = NATURES.iter().find(|(_, _, columns)| is(columns));
    found.map_or(COUNTER, |(letters, kind, _)| (letters, kind))
}

/// What lines of `show info` are, by name; those that are named nowhere here are gauges.
const NATURES_OF_INFO: &[(&str, &str, &str)] = &[
    ("POS", "str", "Name,Version,Release_date,Build info"),
    ("CGS", "u32", "Nbthread,Nbproc"),
    ("KGP", "u32", "Process_num"),
    ("SGP", "u32", "Pid"),
    ("SGP", "str", "Tainted"),
    ("MDP", "str", "Uptime"),
    ("MDP", "u32", "Uptime_sec,Start_time_sec"),
    ("COS", "str", "node,description"),
    ("MaP", "u32", "Idle_pct"),
    (
        "CLP",
        "u32",
        "Memmax_MB,Memmax_bytes,Ulimit-n,Maxsock,Maxconn,Hard_maxconn,Maxpipes,ConnRateLimit,SessRateLimit,SslRateLimit,CompressBpsRateLim",
    ),
    (
        "MCP",
        "u32",
        "PoolFailed,CumConns,CumReq,CumSslConns,SslCacheLookups,SslCacheMisses,CumRecvLogs",
    ),
    (
        "MMP",
        "u32",
        "MaxSslConns,MaxConnRate,MaxSslRate,SslFrontendMaxKeyRate,SslBackendMaxKeyRate,MaxZlibMemUsage",
    ),
    (
        "MRP",
        "u32",
        "ConnRate,SessRate,MaxSessRate,SslRate,SslBackendKeyRate,CompressBpsIn,CompressBpsOut",
    ),
    ("MRP", "u64", "BytesOutRate"),
    ("MGP", "u64", "PoolAlloc_bytes,PoolUsed_bytes,TotalBytesOut,TotalSplicedBytesOut"),
];

fn nature_of_info(name: &str) -> (&'static str, &'static str) {
    let is = |names: &str| names.split(',').any(|known| known == name);
    let found = NATURES_OF_INFO.iter().find(|(_, _, names)| is(names));
    found.map_or(("MGP", "u32"), |(letters, kind, _)| (letters, kind))
}

/// `18.CumConns.1:MCP:u32:12`, a line each.
pub(super) fn info_lines(info: &[(&'static str, String)]) -> String {
    let line = |(pos, (name, value)): (usize, &(&'static str, String))| {
        let (letters, kind) = nature_of_info(name);
        format!("{pos}.{name}.1:{letters}:{kind}:{value}\n")
    };
    info.iter().enumerate().map(line).collect()
}

/// A list of fields.
pub(super) fn info_json(info: &[(&'static str, String)]) -> String {
    let fields: Vec<_> = info
        .iter()
        .enumerate()
        .map(|(pos, (name, value))| {
            let (letters, kind) = nature_of_info(name);
            InfoField {
                field: Place { pos, name },
                process_num: 1,
                tags: tags(letters),
                value: plain(kind, value),
            }
        })
        .collect();
    // Strings and numbers alone: that cannot fail.
    serde_json::to_string(&fields).unwrap_or_default() + "\n"
}

fn plain<'a>(kind: &'static str, text: &'a str) -> Value<'a> {
    let value = match text.parse() {
        // What is counted in a life fits.
        Ok(number) if kind != "str" => Plain::Number(number),
        _ => Plain::Text(text),
    };
    Value { r#type: kind, value }
}

/// The words for the letters (management guide, 9.2).
fn tags(letters: &str) -> Tags {
    let mut letters = letters.chars();
    Tags {
        origin: match letters.next() {
            Some('M') => "Metric",
            Some('S') => "Status",
            Some('K') => "Key",
            Some('C') => "Config",
            _ => "Product",
        },
        nature: match letters.next() {
            Some('G') => "Gauge",
            Some('L') => "Limit",
            Some('M') => "Max",
            Some('R') => "Rate",
            Some('C') => "Counter",
            Some('D') => "Duration",
            Some('A') => "Age",
            Some('a') => "Avg",
            Some('N') => "Name",
            _ => "Output",
        },
        scope: if letters.next() == Some('S') { "Service" } else { "Process" },
    }
}
