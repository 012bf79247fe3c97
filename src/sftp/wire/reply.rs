//! Replies (draft-ietf-secsh-filexfer-02 §7).

use bytes::{BufMut, Bytes, BytesMut};

use super::attributes::Attributes;
use super::status::StatusCode;
use super::{Fields, Malformed, kind, put_string, saturated};

/// What a server can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// How it went.
    Status(Status),
    /// A file or directory is open.
    Handle(Bytes),
    /// File data, in the pieces it came in.
    Data(Vec<Bytes>),
    /// Names.
    Name(Vec<Name>),
    /// Attributes.
    Attributes(Attributes),
    /// The answer to an EXTENDED request.
    Extended(Bytes),
}

/// The body of a STATUS reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What happened.
    pub code: StatusCode,
    /// The server's words; empty where it sent none (draft versions before 3 had no such field, and servers exist).
    pub message: Bytes,
    /// Language tag of the message.
    pub language: Bytes,
}

/// One element of a NAME reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name alone.
    pub filename: Bytes,
    /// A line as of `ls -l`, in no format a program could rely on.
    pub longname: Bytes,
    /// Its attributes.
    pub attributes: Attributes,
}

impl Reply {
    /// The draft's name of it, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status(_) => "STATUS",
            Self::Handle(_) => "HANDLE",
            Self::Data(_) => "DATA",
            Self::Name(_) => "NAME",
            Self::Attributes(_) => "ATTRS",
            Self::Extended(_) => "EXTENDED_REPLY",
        }
    }

    /// A STATUS with this code.
    pub fn status(code: StatusCode, message: &'static str) -> Self {
        Self::Status(Status { code, message: Bytes::from_static(message.as_bytes()), language: Bytes::new() })
    }

    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Status(_) => kind::STATUS,
            Self::Handle(_) => kind::HANDLE,
            Self::Data(_) => kind::DATA,
            Self::Name(_) => kind::NAME,
            Self::Attributes(_) => kind::ATTRS,
            Self::Extended(_) => kind::EXTENDED_REPLY,
        }
    }

    /// `None`: not the type of a reply. DATA does not come this way.
    pub(super) fn decode(kind: u8, fields: &mut Fields) -> Result<Option<Self>, Malformed> {
        Ok(Some(match kind {
            kind::STATUS => Self::Status(Status {
                code: StatusCode(fields.uint32()?),
                // Servers leave these out, or cut them short; the code says what there is to know.
                message: fields.string().unwrap_or_default(),
                language: fields.string().unwrap_or_default(),
            }),
            kind::HANDLE => Self::Handle(fields.string()?),
            kind::NAME => {
                let mut names = Vec::new();
                for _ in 0..fields.count(3 * size_of::<u32>())? {
                    names.push(Name {
                        filename: fields.string()?,
                        longname: fields.string()?,
                        attributes: Attributes::decode(fields)?,
                    });
                }
                Self::Name(names)
            }
            kind::ATTRS => Self::Attributes(Attributes::decode(fields)?),
            kind::EXTENDED_REPLY => Self::Extended(fields.clone().rest()),
            _ => return Ok(None),
        }))
    }

    pub(super) fn encode(&self, output: &mut BytesMut) {
        match self {
            Self::Status(status) => {
                output.put_u32(status.code.0);
                put_string(output, &status.message);
                put_string(output, &status.language);
            }
            Self::Handle(handle) => put_string(output, handle),
            Self::Data(pieces) => {
                output.put_u32(saturated(pieces.iter().map(Bytes::len).sum()));
                pieces.iter().for_each(|piece| output.put_slice(piece));
            }
            Self::Name(names) => {
                output.put_u32(saturated(names.len()));
                for name in names {
                    put_string(output, &name.filename);
                    put_string(output, &name.longname);
                    name.attributes.encode(output);
                }
            }
            Self::Attributes(attributes) => attributes.encode(output),
            Self::Extended(data) => output.put_slice(data),
        }
    }
}
