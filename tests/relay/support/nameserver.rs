//! A name server that answers what it is told to (RFC 1035), over UDP and TCP on one port.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

/// What is said of a name.
#[derive(Clone, Debug)]
pub enum Answer {
    /// These addresses, for so many seconds.
    At(Vec<IpAddr>, u32),
    /// Another name for the one that is asked for, and its addresses.
    Alias(&'static str, Vec<IpAddr>),
    /// An SRV record of each: priority, weight, port, host. For so many seconds.
    Services(Vec<(u16, u16, u16, &'static str)>, u32),
    /// Too long for a datagram.
    Long(Vec<IpAddr>),
    /// The name is there, and has no address.
    Empty,
    NoSuchName,
    Failure,
    Silence,
}

#[derive(Clone)]
pub struct Nameserver {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

#[derive(Default)]
struct Zone {
    answers: HashMap<String, Answer>,
    asked: HashMap<String, usize>,
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

impl Nameserver {
    pub fn new() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let server = Self { address: udp.local_addr().unwrap(), zone: Arc::default() };
        let one = server.clone();
        std::thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((bytes, from)) = udp.recv_from(&mut query) {
                if let Some(answer) = one.answer(&query[..bytes], false) {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let other = server.clone();
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().map_while(Result::ok) {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut query).unwrap();
                    let Some(answer) = other.answer(&query, true) else { break };
                    let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                    stream.write_all(&[&length, answer.as_slice()].concat()).unwrap();
                }
            }
        });
        server
    }

    /// From now on.
    pub fn says(&self, name: &str, answer: Answer) {
        self.zone.lock().unwrap().answers.insert(name.to_owned(), answer);
    }

    /// Questions for a name so far.
    pub fn asked(&self, name: &str) -> usize {
        self.zone.lock().unwrap().asked.get(name).copied().unwrap_or_default()
    }

    fn answer(&self, query: &[u8], whole: bool) -> Option<Vec<u8>> {
        let (name, end) = question(query);
        let kind = u16::from_be_bytes([query[end], query[end + 1]]);
        let mut zone = self.zone.lock().unwrap();
        *zone.asked.entry(name.clone()).or_default() += 1;
        let mut code = 0;
        let mut truncated = false;
        let mut records = Vec::new();
        match zone.answers.get(&name).cloned().unwrap_or(Answer::NoSuchName) {
            Answer::Silence => return None,
            Answer::Failure => code = 2,
            Answer::NoSuchName => code = 3,
            Answer::Empty => {}
            Answer::Long(_) if !whole => truncated = true,
            Answer::Long(ips) => addresses(&mut records, &[0xc0, 12], &ips, kind, 60),
            Answer::At(ips, ttl) => addresses(&mut records, &[0xc0, 12], &ips, kind, ttl),
            Answer::Services(services, ttl) if kind == SRV => {
                for (priority, weight, port, host) in services {
                    let numbers = [priority, weight, port].map(u16::to_be_bytes).concat();
                    let data = [numbers, labels(host)].concat();
                    records.push(record(&[0xc0, 12], SRV, ttl, &data));
                }
            }
            Answer::Services(..) => {}
            Answer::Alias(other, ips) => {
                let other = labels(other);
                records.push(record(&[0xc0, 12], CNAME, 60, &other));
                addresses(&mut records, &other, &ips, kind, 60);
            }
        }
        let mut answer = query[..2].to_vec();
        // An answer, recursion wanted and available.
        answer.extend([0x81 | if truncated { 2 } else { 0 }, 0x80 | code]);
        let count = u16::try_from(records.len()).unwrap().to_be_bytes();
        answer.extend([0, 1, count[0], count[1], 0, 0, 0, 0]);
        answer.extend(&query[12..end + 4]);
        answer.extend(records.concat());
        Some(answer)
    }
}

/// The name that is asked for, in small letters, and where it ends.
fn question(query: &[u8]) -> (String, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        at += 1 + length;
    }
    (labels.join("."), at + 1)
}

fn labels(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat();
    let parts = name.split('.').filter(|part| !part.is_empty());
    let mut labels: Vec<u8> = parts.flat_map(label).collect();
    labels.push(0);
    labels
}

fn addresses(records: &mut Vec<Vec<u8>>, name: &[u8], ips: &[IpAddr], kind: u16, ttl: u32) {
    for ip in ips {
        match ip {
            IpAddr::V4(ip) if kind == A => records.push(record(name, A, ttl, &ip.octets())),
            IpAddr::V6(ip) if kind == AAAA => records.push(record(name, AAAA, ttl, &ip.octets())),
            _ => {}
        }
    }
}

fn record(name: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = name.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend([0, 1]);
    record.extend(ttl.to_be_bytes());
    record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    record.extend(data);
    record
}
