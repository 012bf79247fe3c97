//! Random command scripts against a model of FTP: each command has its replies, no more and no fewer, in the order of the
//! commands, whether they come one by one or all at once; and what they do is what they say.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::campaign::{random, rounds};
use crate::support::client::{Client, Reply, latin1};
use crate::support::gateway::{Gateway, MAPPED_PASSWORD};
use crate::support::scripted_sftp::tree::HOME;
use crate::support::scripted_sftp::{Profile, Script};
use crate::support::scripted_sshd::ScriptedSshd;
use crate::support::transfer::eventually;

/// Sessions at a time, each with files of its own.
const SESSIONS: u64 = 4;

/// Scripts in all, in the short form and under `tests/run --full`.
const SCRIPTS: [usize; 2] = [1_000, 100_000];

/// Lines and replies that are kept for the story of a failure.
const TOLD: usize = 120;

/// Most commands in a script; what is read ahead during a transfer are sixteen lines.
const LONGEST: usize = 14;

/// Some exist at some time, some are directories, some lead nowhere.
const NAMES: [&str; 14] =
    ["a", "b", "c", "d", "d/a", "d/e", "d/e/a", "..", ".", "/", "/d", "missing/a", "a/b", "d/../b"];

/// A path from the root, one name after the other.
type Path = Vec<String>;

/// What stands under a name.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Directory,
    File(Vec<u8>),
}

/// What a session is expected to be.
#[derive(Debug, Clone, Default)]
struct Model {
    tree: BTreeMap<Path, Node>,
    directory: Path,
    image: bool,
    restart: usize,
    rename_from: Option<Path>,
    has_endpoint: bool,
}

/// What is expected of one command.
#[derive(Debug)]
struct Expected {
    line: String,
    /// The final reply is one of these.
    codes: Vec<u16>,
    data: Data,
    /// It is answered as soon as it is read, also during a transfer.
    at_once: bool,
    /// ABOR is sent together with it.
    is_aborted: bool,
    /// How its final reply begins, where the model knows it.
    told: Option<String>,
}

/// What goes over the data connection if 150 comes.
#[derive(Debug)]
enum Data {
    None,
    /// Sent by the client.
    Up(Vec<u8>),
    /// Exactly this comes; `None`: whatever comes.
    Down(Option<Vec<u8>>),
    /// So many lines come.
    Lines(usize),
    /// Nobody connects: ABOR is on its way.
    Aborted,
}

impl Expected {
    fn reply(line: impl Into<String>, codes: &[u16]) -> Self {
        Self {
            line: line.into(),
            codes: codes.to_vec(),
            data: Data::None,
            at_once: false,
            is_aborted: false,
            told: None,
        }
    }

    /// USER and AUTH make what was left void, also where they are refused.
    fn clearing(self, model: &mut Model) -> Self {
        if self.line.starts_with("USER") || self.line.starts_with("AUTH") {
            model.restart = 0;
        }
        self
    }
}

impl Model {
    fn resolve(&self, name: &str) -> Path {
        let mut path = if name.starts_with('/') { Path::new() } else { self.directory.clone() };
        for part in name.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(path.pop()),
                part => path.push(part.to_owned()),
            }
        }
        path
    }

    fn node(&self, path: &Path) -> Option<Node> {
        if path.is_empty() { Some(Node::Directory) } else { self.tree.get(path).cloned() }
    }

    fn is_directory(&self, path: &[String]) -> bool {
        self.node(&path.to_vec()) == Some(Node::Directory)
    }

    fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        self.tree.keys().filter(|other| other.len() > path.len() && other.starts_with(path))
    }

    fn children(&self, path: &Path) -> usize {
        self.below(path).filter(|other| other.len() == path.len() + 1).count()
    }

    /// Could a new name be made there?
    fn has_parent(&self, path: &Path) -> bool {
        path.split_last().is_some_and(|(_, parent)| self.is_directory(parent))
    }

    /// Carries out a random command that is no transfer.
    fn simple(&mut self, mut pick: impl FnMut(usize) -> usize) -> Expected {
        let name = NAMES[pick(NAMES.len())];
        let path = self.resolve(name);
        let node = self.node(&path);
        let rename_from = self.rename_from.take();
        let line = |verb: &str| format!("{verb} {name}");
        match pick(38) {
            0 => Expected::reply("NOOP", &[200]),
            1 => {
                self.image = true;
                Expected::reply("TYPE I", &[200])
            }
            2 => {
                self.image = false;
                Expected::reply("TYPE A N", &[200])
            }
            3 => Expected::reply("TYPE E", &[504]),
            4 => Expected::reply("MODE B", &[504]),
            5 => Expected::reply("STRU F", &[200]),
            6 => Expected::reply("STRU Q", &[501]),
            7 => Expected::reply("SYST", &[215]),
            8 => Expected::reply("HELP", &[214]),
            9 => Expected::reply("FEAT", &[211]),
            10 => Expected { at_once: true, ..Expected::reply("STAT", &[211]) },
            11 | 12 => {
                self.restart = [0, 1, 3, 5, 1000][pick(5)];
                Expected::reply(format!("REST {}", self.restart), &[350])
            }
            13 => Expected::reply("REST x", &[501]),
            14 => Expected::reply("ALLO 5", &[202]),
            15 => {
                let told = format!("257 \"/{}\" ", self.directory.join("/"));
                Expected { told: Some(told), ..Expected::reply("PWD", &[257]) }
            }
            16 | 17 => {
                let there = node == Some(Node::Directory);
                if there {
                    self.directory = path;
                }
                Expected::reply(line("CWD"), if there { &[250] } else { &[550] })
            }
            18 => {
                let parent = self.resolve("..");
                let there = self.is_directory(&parent);
                if there {
                    self.directory = parent;
                }
                Expected::reply("CDUP", if there { &[250] } else { &[550] })
            }
            19..=21 => {
                let can = node.is_none() && self.has_parent(&path);
                if can {
                    self.tree.insert(path, Node::Directory);
                }
                Expected::reply(line("MKD"), if can { &[257] } else { &[550] })
            }
            22 => {
                let can = node == Some(Node::Directory)
                    && !path.is_empty()
                    && self.children(&path) == 0
                    && !self.directory.starts_with(&path);
                if can {
                    self.tree.remove(&path);
                }
                Expected::reply(line("RMD"), if can { &[250] } else { &[550] })
            }
            23 | 24 => {
                let is_file = matches!(node, Some(Node::File(_)));
                if is_file {
                    self.tree.remove(&path);
                }
                Expected::reply(line("DELE"), if is_file { &[250] } else { &[550] })
            }
            25 => {
                let length = if let Some(Node::File(bytes)) = &node { Some(bytes.len()) } else { None };
                match length.filter(|_| self.image) {
                    Some(length) => {
                        Expected { told: Some(format!("213 {length}")), ..Expected::reply(line("SIZE"), &[213]) }
                    }
                    None => Expected::reply(line("SIZE"), &[550]),
                }
            }
            26 => Expected::reply(line("MDTM"), if node.is_some() { &[213] } else { &[550] }),
            27 => Expected::reply(line("MLST"), if node.is_some() { &[250] } else { &[550] }),
            28 => {
                let code = match node {
                    Some(Node::Directory) => 212,
                    Some(Node::File(_)) => 213,
                    None => 450,
                };
                Expected::reply(line("STAT"), &[code])
            }
            29 => {
                let is_file = matches!(node, Some(Node::File(_)));
                Expected::reply(line("XCRC"), if is_file { &[250] } else { &[550] })
            }
            30..=32 => {
                let can = node.is_some() && !path.is_empty();
                self.rename_from = can.then_some(path);
                Expected::reply(line("RNFR"), if can { &[350] } else { &[550] })
            }
            33 => Expected::reply(line("RNTO"), self.rename_to(rename_from, path, node)),
            34 => Expected::reply("XYZZY", &[500]),
            35 => Expected::reply(["REIN", "SMNT /", "ADAT x", "MIC x"][pick(4)], &[502, 503]),
            36 => Expected::reply(["USER x", "AUTH TLS", "CCC", "PASS x"][pick(4)], &[503, 530, 534]).clearing(self),
            _ => Expected::reply(["PBSZ 0", "PROT P", "OPTS UTF8 ON", "LANG"][pick(4)], &[200]),
        }
    }

    fn rename_to(&mut self, from: Option<Path>, to: Path, there: Option<Node>) -> &'static [u16] {
        let Some(from) = from else { return &[503] };
        if from == to {
            return &[250];
        }
        // A directory takes the place of nothing (rename(2): ENOTDIR).
        let onto_a_file = there.is_some() && self.node(&from) == Some(Node::Directory);
        if to.starts_with(&from) || there == Some(Node::Directory) || onto_a_file || !self.has_parent(&to) {
            return &[550, 553];
        }
        let moved: Vec<Path> = self.below(&from).cloned().chain([from.clone()]).collect();
        for old in moved {
            let node = self.tree.remove(&old).unwrap();
            self.tree.insert([&to[..], &old[from.len()..]].concat(), node);
        }
        &[250]
    }

    /// A random command that uses the data connection, carried out unless it is `aborted`.
    fn transfer(&mut self, mut pick: impl FnMut(usize) -> usize, aborted: bool) -> Expected {
        let name = NAMES[pick(NAMES.len())];
        let verb = ["RETR", "STOR", "STOR", "APPE", "LIST", "NLST", "MLSD"][pick(7)];
        let sent = vec![b'a' + u8::try_from(pick(26)).unwrap(); pick(9)];
        let line = format!("{verb} {name}");
        let restart = std::mem::take(&mut self.restart);
        self.rename_from = None;
        if !std::mem::take(&mut self.has_endpoint) {
            return Expected::reply(line, &[425]);
        }
        let path = self.resolve(name);
        let node = self.node(&path);
        let refused = |codes: &[u16]| Expected::reply(&line, codes);
        let mut changed = None;
        let mut expected = Expected::reply(&line, &[226]);
        expected.data = match (verb, &node) {
            ("RETR", Some(Node::File(bytes))) if self.image && restart > bytes.len() => return refused(&[554]),
            ("RETR", Some(Node::File(bytes))) => match bytes.get(restart..) {
                Some(rest) => Data::Down(Some(rest.to_vec())),
                None => {
                    expected.codes = vec![226, 451, 554];
                    Data::Down(None)
                }
            },
            ("LIST" | "NLST" | "MLSD", Some(Node::Directory)) => Data::Lines(self.children(&path)),
            ("LIST" | "NLST", Some(Node::File(_))) => Data::Lines(1),
            ("MLSD", Some(Node::File(_))) => return refused(&[501]),
            ("RETR" | "LIST" | "NLST" | "MLSD", _) => return refused(&[550]),
            (_, Some(Node::Directory)) => return refused(&[550, 553, 554]),
            (_, None) if !self.has_parent(&path) => return refused(&[550, 553, 554]),
            _ if restart > 0 && !self.image => return refused(&[554]),
            (_, node) => {
                let old = if let Some(Node::File(bytes)) = node { bytes.clone() } else { Vec::new() };
                let offset = match (verb, restart) {
                    ("APPE", 0) => old.len(),
                    (_, restart) if restart > old.len() || (restart > 0 && node.is_none()) => return refused(&[554]),
                    (_, restart) => restart,
                };
                // A new content replaces all of the old; what is continued keeps what is beyond.
                let rest =
                    if offset == 0 && verb == "STOR" { &[] } else { old.get(offset + sent.len()..).unwrap_or(&[]) };
                changed = Some([&old[..offset], &sent, rest].concat());
                Data::Up(sent)
            }
        };
        if aborted {
            expected.codes = vec![426];
            expected.data = Data::Aborted;
        } else if let Some(content) = changed {
            self.tree.insert(path, Node::File(content));
        }
        expected
    }
}

/// One session and what it should be.
struct Driver<'a> {
    sshd: &'a ScriptedSshd,
    home: String,
    client: Client,
    peer: SocketAddr,
    model: Model,
    /// The data port that was told last.
    port: Option<u16>,
    /// The last lines and replies, of this script and those before.
    told: VecDeque<String>,
    number: usize,
}

impl Driver<'_> {
    /// Carries out one script, all at once or one by one.
    async fn run(&mut self, pick: &mut impl FnMut(usize) -> usize) {
        let pipelined = pick(3) > 0;
        let mut waiting = VecDeque::new();
        for _ in 0..=pick(LONGEST) {
            match pick(10) {
                0..=2 => {
                    self.model.has_endpoint = true;
                    self.model.rename_from = None;
                    let line = if pick(2) == 0 { "EPSV" } else { "PASV" };
                    waiting.push_back(Expected::reply(line, &[227, 229]));
                }
                3 | 4 => {
                    // ABOR is acted upon as soon as it is read, so nothing else may be on its way.
                    let aborted = !pipelined && pick(4) == 0;
                    waiting.push_back(Expected { is_aborted: aborted, ..self.model.transfer(&mut *pick, aborted) });
                    if aborted {
                        (self.model.has_endpoint, self.model.restart) = (false, 0);
                        waiting.push_back(Expected::reply("ABOR", &[226]));
                    }
                }
                5 if !pipelined && pick(4) == 0 => {
                    (self.model.has_endpoint, self.model.restart) = (false, 0);
                    self.model.rename_from = None;
                    waiting.push_back(Expected::reply("ABOR", &[226]));
                }
                _ => waiting.push_back(self.model.simple(&mut *pick)),
            }
        }
        self.number += 1;
        self.model.rename_from = None;
        // Nothing but this is the answer to this, so no reply is left over.
        let mark = format!("MARK{}", self.number);
        waiting.push_back(Expected::reply(&mark, &[500]));
        if pipelined {
            let lines: String = waiting.iter().map(|expected| format!("{}\r\n", expected.line)).collect();
            self.client.send_raw(lines.as_bytes()).await;
            while let Some(expected) = waiting.pop_front() {
                self.expect(expected, &mut waiting).await;
            }
        } else {
            while let Some(expected) = waiting.pop_front() {
                let lines = if expected.is_aborted {
                    format!("{}\r\nABOR\r\n", expected.line)
                } else {
                    format!("{}\r\n", expected.line)
                };
                self.client.send_raw(lines.as_bytes()).await;
                let aborting = if expected.is_aborted { waiting.pop_front() } else { None };
                self.expect(expected, &mut VecDeque::new()).await;
                if let Some(aborting) = aborting {
                    self.expect(aborting, &mut VecDeque::new()).await;
                }
            }
        }
    }

    /// What was said and answered, and what the server was asked.
    fn story(&self) -> String {
        let asked = self.sshd.sftp().record();
        let asked: Vec<&String> = asked.changes.iter().filter(|change| change.contains(&self.home)).collect();
        format!("{:#?}\nasked of the server: {asked:#?}", self.told)
    }

    fn note(&mut self, text: impl Into<String>) {
        if self.told.len() == TOLD {
            self.told.pop_front();
        }
        self.told.push_back(text.into());
    }

    async fn reply(&mut self, line: &str) -> Reply {
        let reply = self.client.reply().await;
        self.note(format!("{line} -> {}", reply.text().lines().next().unwrap_or_default()));
        reply
    }

    /// The replies to one command, and its data. Of those that wait some may be answered meanwhile.
    async fn expect(&mut self, expected: Expected, waiting: &mut VecDeque<Expected>) {
        let Expected { line, codes, data, at_once, is_aborted, told } = expected;
        if at_once && codes.is_empty() {
            return;
        }
        let mut reply = self.reply(&line).await;
        let mut opened = false;
        while reply.code == 150 || (reply.code == 211 && opened) {
            if reply.code == 150 {
                assert!(!opened && !matches!(data, Data::None), "150 out of place: {}", self.story());
                opened = true;
                if !matches!(data, Data::Aborted) {
                    self.exchange(&data).await;
                }
            } else {
                let told = waiting.iter_mut().find(|other| other.at_once && !other.codes.is_empty());
                told.unwrap_or_else(|| panic!("211 out of place: {}", self.story())).codes.clear();
            }
            reply = self.reply(&line).await;
        }
        // What is refused at once may be aborted before that.
        let is_refusal = is_aborted && reply.code == 426;
        assert!(codes.contains(&reply.code) || is_refusal, "expected {codes:?}: {}", self.story());
        assert!(opened || reply.code != 226 || line == "ABOR", "226 without 150: {}", self.story());
        if let Some(told) = told {
            assert!(reply.text().starts_with(&told), "{told}: {}", self.story());
        }
        match (&*line, reply.code) {
            (_, 229) => self.port = reply.text().split('|').nth(3).map(|port| port.parse().unwrap()),
            (_, 227) => {
                let text = reply.text();
                let numbers: Vec<u16> = text[3..]
                    .split(|other: char| !other.is_ascii_digit())
                    .filter_map(|part| part.parse().ok())
                    .collect();
                self.port = Some(numbers[4] * 256 + numbers[5]);
            }
            (line, 500) if line.starts_with("MARK") => {
                assert!(reply.text().contains(line), "{}", self.story());
            }
            _ => {}
        }
    }

    async fn exchange(&mut self, data: &Data) {
        let port = self.port.take().expect("a port was told");
        let mut connection = self.client.data(SocketAddr::new(self.peer.ip(), port)).await;
        let mut received = Vec::new();
        if let Data::Up(bytes) = data {
            connection.write_all(bytes).await.unwrap();
            connection.shutdown().await.unwrap();
        }
        let read = connection.read_to_end(&mut received).await;
        let _ = connection.shutdown().await;
        match data {
            Data::Down(Some(bytes)) => assert_eq!((read.is_ok(), &received), (true, bytes), "{}", self.story()),
            Data::Lines(count) => {
                let lines = received.split(|byte| *byte == b'\n').count() - 1;
                assert_eq!(lines, *count, "{}: {}", latin1(&received), self.story());
            }
            _ => {}
        }
    }

    /// The files are what the model says.
    fn check(&self) {
        let (tree, home) = (self.sshd.sftp().tree(), &self.home);
        let prefix = format!("{home}/");
        let stored: BTreeMap<Path, Option<Vec<u8>>> = tree
            .names()
            .iter()
            // What an aborted upload leaves goes a moment later.
            .filter(|name| !name.ends_with(b".f2s-part"))
            .filter_map(|name| {
                latin1(name).strip_prefix(&prefix).map(|below| below.split('/').map(str::to_owned).collect())
            })
            .map(|path: Path| (path.clone(), tree.file(format!("{home}/{}", path.join("/")))))
            .collect();
        let expected: BTreeMap<Path, Option<Vec<u8>>> = self
            .model
            .tree
            .iter()
            .map(|(path, node)| match node {
                Node::Directory => (path.clone(), None),
                Node::File(bytes) => (path.clone(), Some(bytes.clone())),
            })
            .collect();
        assert_eq!(stored, expected, "{}", self.story());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s31_random_scripts_are_answered_as_the_model_says() {
    let sshd = ScriptedSshd::start(Script::new(Profile::openssh())).await;
    let home = |session: u64| format!("{}/user{session}", latin1(HOME));
    let mut setup = sshd.setup();
    for session in 0..SESSIONS {
        sshd.sftp().tree().put_directory(home(session));
        setup = setup.with_user(&format!("user{session}"), &format!("    root: \"{}\"\n", home(session)));
    }
    let gateway = Gateway::start(&setup);
    let scripts = rounds(SCRIPTS[0], SCRIPTS[1]) / usize::try_from(SESSIONS).unwrap();
    let sessions = (0..SESSIONS).map(|session| {
        let (gateway, sshd) = (&gateway, &sshd);
        async move {
            let mut client = Client::explicit(gateway).await;
            client.log_in(&format!("user{session}"), MAPPED_PASSWORD).await;
            let (model, told) = (Model::default(), VecDeque::new());
            let (home, peer) = (home(session), gateway.explicit);
            let mut driver = Driver { sshd, home, client, peer, model, port: None, told, number: 0 };
            let mut numbers = random(session + 1, usize::MAX >> 1);
            let mut pick = |bound: usize| numbers.next().unwrap() % bound;
            for _ in 0..scripts {
                driver.run(&mut pick).await;
                driver.check();
            }
        }
    });
    join_all(sessions).await;
    let is_temporary = |name: &Vec<u8>| name.ends_with(b".f2s-part");
    eventually("nothing is left behind", || !sshd.sftp().tree().names().iter().any(is_temporary)).await;
}
