//! The rows of the `*.table` files as cases. README.md beside them describes the format.

use std::fs;
use std::path::Path;

use crate::text::{unquoted, words};

/// One row.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// `access.table:17`
    pub(crate) place: String,
    pub(crate) row: String,
    pub(crate) state: State,
    /// What stands in the user's directory before the first step.
    pub(crate) files: Vec<String>,
    pub(crate) steps: Vec<Step>,
    pub(crate) effect: Vec<String>,
}

/// What has happened before the first step.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) stage: Stage,
    pub(crate) implicit: bool,
    pub(crate) image: bool,
    pub(crate) protection: Protection,
    /// The command that prepares a data connection.
    pub(crate) data: Option<&'static str>,
    pub(crate) user: Option<String>,
    pub(crate) lenient: bool,
    pub(crate) real: bool,
    pub(crate) scripted: bool,
    pub(crate) bare: bool,
    pub(crate) room: Option<u64>,
    /// SFTP requests that fail, and with what.
    pub(crate) faults: Vec<(String, Fault)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In clear, greeted.
    #[default]
    Clear,
    /// Under TLS.
    Secured,
    /// USER was sent.
    Named,
    LoggedIn,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Protection {
    #[default]
    Private,
    Clear,
    /// PROT was not sent.
    Unsaid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Status(u32),
    /// The connection ends before it is done.
    Lost,
    /// It is done, and the connection ends before the answer.
    DoneAndLost,
}

/// What is sent at once, and what comes of it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// As the table writes it; `None` for a step that only sees to a data connection left open before.
    pub(crate) sent: Option<String>,
    pub(crate) data: Data,
    pub(crate) expected: Vec<Expected>,
}

/// What the client does with the data connection once 1yz has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// Reads a download to its end; what an upload command wants is an empty file.
    Usual,
    /// Nothing yet: a later step does.
    Held,
    Read,
    Write {
        content: String,
        manner: Manner,
    },
}

/// How an upload ends, or how its data connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Proper,
    /// FIN without close_notify.
    Cut,
    /// RST.
    Reset,
    /// In clear, whatever PROT says.
    Clear,
    /// Under TLS, with a session of its own.
    Foreign,
}

/// One thing that must come.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    Reply {
        codes: Vec<u16>,
        text: Option<String>,
    },
    /// Bytes outside of any reply: Telnet.
    Raw(String),
    Closed,
    /// What the data connection brought, exactly.
    Data(String),
    /// Texts in it, in this order.
    DataContains(String),
    /// A text that is not in it.
    DataLacks(String),
    /// Its lines, in any order.
    Lines(Vec<String>),
}

/// All cases of a directory, by file name.
pub(crate) fn read(directory: &Path) -> Result<Vec<Case>, String> {
    let entries = fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "table"));
    files.sort();
    let mut cases = Vec::new();
    let mut mistakes = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut common = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let place = format!("{name}:{}", number + 1);
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(files) = line.strip_prefix("files ") {
                common = words(files).into_iter().map(str::to_owned).collect();
                continue;
            }
            match parse(line, place.clone(), &common) {
                Ok(case) => cases.push(case),
                Err(mistake) => mistakes.push(format!("{place}: {mistake}\n    {line}")),
            }
        }
    }
    if mistakes.is_empty() { Ok(cases) } else { Err(mistakes.join("\n")) }
}

fn parse(line: &str, place: String, common: &[String]) -> Result<Case, String> {
    let columns: Vec<&str> = line.split(" | ").map(str::trim).collect();
    let [state, sent, replies, effect] = columns.as_slice() else {
        return Err(format!("{} columns, and there should be 4", columns.len()));
    };
    let (state, more) = match state.split_once(" + ") {
        Some((state, files)) => (state, words(files)),
        None => (*state, Vec::new()),
    };
    let sent: Vec<&str> = sent.split(" ; ").map(str::trim).collect();
    let replies: Vec<&str> = replies.split(" ; ").map(str::trim).collect();
    if sent.len() != replies.len() {
        return Err(format!("{} steps and {} groups of replies", sent.len(), replies.len()));
    }
    let steps = sent.iter().zip(replies).map(|(sent, replies)| step(sent, replies)).collect::<Result<_, _>>()?;
    Ok(Case {
        place,
        row: columns.join(" | "),
        state: self::state(state)?,
        files: common.iter().cloned().chain(more.into_iter().map(str::to_owned)).collect(),
        steps,
        effect: if *effect == "-" { Vec::new() } else { words(effect).into_iter().map(str::to_owned).collect() },
    })
}

fn state(text: &str) -> Result<State, String> {
    let mut state = State::default();
    for word in text.split_whitespace() {
        match word.split_once(':') {
            None => match word {
                "clear" => state.stage = Stage::Clear,
                "tls" => state.stage = Stage::Secured,
                "named" => state.stage = Stage::Named,
                "in" => state.stage = Stage::LoggedIn,
                "implicit" => {
                    state.implicit = true;
                    state.stage = state.stage.max(Stage::Secured);
                }
                "I" => state.image = true,
                "C" => state.protection = Protection::Clear,
                "noprot" => state.protection = Protection::Unsaid,
                "epsv" => state.data = Some("EPSV"),
                "pasv" => state.data = Some("PASV"),
                "port" => state.data = Some("PORT {port}"),
                "eprt" => state.data = Some("EPRT {eprt}"),
                "lenient" => state.lenient = true,
                "real" => state.real = true,
                "scripted" => state.scripted = true,
                "bare" => (state.scripted, state.bare) = (true, true),
                _ => return Err(format!("no state is called `{word}`")),
            },
            Some(("as", user)) => state.user = Some(user.to_owned()),
            Some(("room", bytes)) => {
                state.scripted = true;
                state.room = Some(bytes.parse().map_err(|error| format!("`{word}`: {error}"))?);
            }
            Some(("fault", fault)) => {
                state.scripted = true;
                let (request, fault) = fault.split_once('=').ok_or_else(|| format!("`{word}`: REQUEST=what"))?;
                let fault = match fault {
                    "lost" => Fault::Lost,
                    "done-lost" => Fault::DoneAndLost,
                    code => Fault::Status(code.parse().map_err(|error| format!("`{word}`: {error}"))?),
                };
                state.faults.push((request.to_owned(), fault));
            }
            Some(_) => return Err(format!("no state is called `{word}`")),
        }
    }
    Ok(state)
}

impl Stage {
    fn max(self, other: Self) -> Self {
        if self == Self::Clear { other } else { self }
    }
}

fn step(sent: &str, replies: &str) -> Result<Step, String> {
    let (command, data) = if sent == ">" {
        (None, Data::Read)
    } else if let Some(data) = upload(sent) {
        (None, data?)
    } else if let Some(command) = sent.strip_suffix(" >hold") {
        (Some(command), Data::Held)
    } else {
        match sent.match_indices(" <").find_map(|(at, _)| Some((at, upload(&sent[at + 1..])?))) {
            Some((at, data)) => (Some(&sent[..at]), data?),
            None => (Some(sent), Data::Usual),
        }
    };
    Ok(Step { sent: command.map(str::to_owned), data, expected: expected(replies)? })
}

/// `<"content"`, or with a manner: `<cut"content"`.
fn upload(text: &str) -> Option<Result<Data, String>> {
    let (manner, content) = text.strip_prefix('<')?.split_once('"')?;
    let manner = match manner {
        "" => Manner::Proper,
        "cut" => Manner::Cut,
        "reset" => Manner::Reset,
        "clear" => Manner::Clear,
        "foreign" => Manner::Foreign,
        _ => return None,
    };
    let content = content.strip_suffix('"').ok_or_else(|| format!("`{text}`: the quotes are not closed"));
    Some(content.map(|content| Data::Write { content: content.to_owned(), manner }))
}

fn expected(text: &str) -> Result<Vec<Expected>, String> {
    let mut expected = Vec::new();
    if text == "-" {
        return Ok(expected);
    }
    for word in words(text) {
        if word.starts_with('"') {
            let Some(Expected::Reply { text, .. }) = expected.last_mut() else {
                return Err(format!("`{word}`: a text without a code before it"));
            };
            *text = Some(unquoted(word)?.to_owned());
        } else if word == "closed" {
            expected.push(Expected::Closed);
        } else if let Some(raw) = word.strip_prefix("raw=") {
            expected.push(Expected::Raw(unquoted(raw)?.to_owned()));
        } else if let Some(content) = word.strip_prefix("data=") {
            expected.push(Expected::Data(unquoted(content)?.to_owned()));
        } else if let Some(pattern) = word.strip_prefix("data~") {
            expected.push(Expected::DataContains(unquoted(pattern)?.to_owned()));
        } else if let Some(pattern) = word.strip_prefix("data!") {
            expected.push(Expected::DataLacks(unquoted(pattern)?.to_owned()));
        } else if let Some(lines) = word.strip_prefix("lines=") {
            let lines = if lines.is_empty() { Vec::new() } else { lines.split(',').map(str::to_owned).collect() };
            expected.push(Expected::Lines(lines));
        } else {
            let codes = word.split('/').map(str::parse).collect::<Result<_, _>>();
            let codes = codes.map_err(|error| format!("`{word}`: {error}"))?;
            expected.push(Expected::Reply { codes, text: None });
        }
    }
    Ok(expected)
}
