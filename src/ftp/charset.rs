//! Names for clients that do not speak UTF-8: between the bytes of a name and those that a client of some other charset
//! sends and shows (RFC 2640 §2 leaves it to the server to know that charset).
//!
//! Names on the backend are UTF-8, or were never text. Of each name there are two forms, and from the client's the name
//! is found again without a question:
//!
//! * a name that the charset has, and whose bytes in it cannot be mistaken for UTF-8, is shown in the charset;
//! * any other is shown as it is, never with `?` in it, which could not be addressed.
//!
//! What a client sends is a name as it is where it is UTF-8, which charsets of single bytes hardly ever are by accident,
//! and else text of its charset. What remains are bytes on the backend that are not UTF-8: they are shown as they are,
//! and may also be read as text of the charset. For those the backend has to be asked which of the two exists.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8};

/// Code page 437 from 0x80 on: DOS in the United States.
const CODE_PAGE_437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// Code page 850 from 0x80 on: DOS in Western Europe.
const CODE_PAGE_850: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜø£Ø×ƒáíóúñÑªº¿®¬½¼¡«»░▒▓│┤ÁÂÀ©╣║╗╝¢¥┐└┴┬├─┼ãÃ╚╔╩╦╠═╬¤ðÐÊËÈıÍÎÏ┘┌█▄¦Ì▀ÓßÔÒõÕµþÞÚÛÙýÝ¯´\u{ad}±‗¾¶§÷¸°¨·¹³²■\u{a0}";

/// A charset other than UTF-8, of which ASCII is a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charset(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// ISO 8859-1: the first 256 characters of Unicode. In the Encoding Standard that name means windows-1252.
    Latin1,
    /// A code page of DOS, which the Encoding Standard has not.
    CodePage(&'static str),
    /// One of the Encoding Standard.
    Standard(&'static Encoding),
}

/// What a configuration may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// UTF-8: names pass as they are.
    Utf8,
    /// Another.
    Other(Charset),
}

impl Named {
    /// `utf-8`, `latin1`, `cp437`, `cp850` or a label of the Encoding Standard (<https://encoding.spec.whatwg.org>), in
    /// any case. `None` for what is unknown, and for charsets in which the bytes of ASCII may mean something else
    /// (UTF-16, ISO-2022-JP).
    pub fn find(label: &str) -> Option<Self> {
        let kind = match label.to_ascii_lowercase().as_str() {
            "latin1" | "latin-1" | "iso-8859-1" | "iso8859-1" => Kind::Latin1,
            "cp437" | "ibm437" => Kind::CodePage(CODE_PAGE_437),
            "cp850" | "ibm850" => Kind::CodePage(CODE_PAGE_850),
            other => match Encoding::for_label_no_replacement(other.as_bytes())? {
                encoding if encoding == UTF_8 => return Some(Self::Utf8),
                encoding if encoding.is_ascii_compatible() => Kind::Standard(encoding),
                _ => return None,
            },
        };
        Some(Self::Other(Charset(kind)))
    }
}

impl Charset {
    /// The name that a client means by these bytes.
    pub fn name<'a>(&self, sent: &'a [u8]) -> Cow<'a, [u8]> {
        if std::str::from_utf8(sent).is_ok() {
            return Cow::Borrowed(sent);
        }
        match self.decode(sent) {
            Some(text) => Cow::Owned(text.into_bytes()),
            None => Cow::Borrowed(sent),
        }
    }

    /// How a name is shown to the client. [`Charset::name`] of it is the name again, if that is UTF-8.
    pub fn shown<'a>(&self, name: &'a [u8]) -> Cow<'a, [u8]> {
        if name.is_ascii() {
            return Cow::Borrowed(name);
        }
        let encoded = std::str::from_utf8(name).ok().and_then(|text| self.encode(text));
        match encoded {
            // Some charsets read more than they write, so only the way back tells.
            Some(encoded) if *self.name(&encoded) == *name => Cow::Owned(encoded),
            _ => Cow::Borrowed(name),
        }
    }

    /// The same of a path, each name in it by itself.
    pub fn shown_path<'a>(&self, path: &'a [u8]) -> Cow<'a, [u8]> {
        if path.is_ascii() {
            return Cow::Borrowed(path);
        }
        let names: Vec<Cow<'_, [u8]>> = path.split(|byte| *byte == b'/').map(|name| self.shown(name)).collect();
        Cow::Owned(names.join(&b'/'))
    }

    /// Is the byte 255 a letter, or part of one?
    pub fn has_letter_255(&self) -> bool {
        match self.0 {
            Kind::Latin1 | Kind::CodePage(_) => true,
            Kind::Standard(encoding) => encoding.is_single_byte(),
        }
    }

    fn decode(&self, bytes: &[u8]) -> Option<String> {
        match self.0 {
            Kind::Latin1 => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
            Kind::CodePage(upper) => {
                let character = |byte: u8| match byte.checked_sub(0x80) {
                    None => Some(char::from(byte)),
                    Some(index) => upper.chars().nth(index.into()),
                };
                bytes.iter().map(|byte| character(*byte)).collect()
            }
            Kind::Standard(encoding) => {
                encoding.decode_without_bom_handling_and_without_replacement(bytes).map(Cow::into_owned)
            }
        }
    }

    fn encode(&self, text: &str) -> Option<Vec<u8>> {
        match self.0 {
            Kind::Latin1 => text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect(),
            Kind::CodePage(upper) => {
                let byte = |character: char| match u8::try_from(u32::from(character)) {
                    Ok(ascii) if ascii.is_ascii() => Some(ascii),
                    _ => upper
                        .chars()
                        .position(|other| other == character)
                        .and_then(|index| u8::try_from(index + 0x80).ok()),
                };
                text.chars().map(byte).collect()
            }
            Kind::Standard(encoding) => {
                let (bytes, _, has_unmappable) = encoding.encode(text);
                (!has_unmappable).then(|| bytes.into_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn charset(label: &str) -> Charset {
        match Named::find(label) {
            Some(Named::Other(charset)) => charset,
            other => panic!("{label}: {other:?}"),
        }
    }

    const LABELS: [&str; 12] = [
        "latin1",
        "cp1252",
        "cp437",
        "cp850",
        "iso-8859-15",
        "windows-1251",
        "koi8-r",
        "shift_jis",
        "gbk",
        "gb18030",
        "big5",
        "euc-kr",
    ];

    #[test]
    fn labels() {
        for label in ["utf-8", "UTF8", "Utf-8"] {
            assert_eq!(Named::find(label), Some(Named::Utf8), "{label}");
        }
        for label in ["", "utf-16", "utf-16le", "iso-2022-jp", "replacement", "hz-gb-2312", "klingon"] {
            assert_eq!(Named::find(label), None, "{label}");
        }
        assert_eq!(charset("Latin1"), charset("ISO-8859-1"));
        assert_ne!(charset("latin1"), charset("cp1252"));
    }

    #[test]
    fn known_names() {
        for (label, name, shown) in [
            ("latin1", "Müller", &b"M\xFCller"[..]),
            ("latin1", "€", "€".as_bytes()),
            ("cp1252", "5 €", b"5 \x80"),
            ("cp437", "Müller ▓\u{a0}", b"M\x81ller \xB2\xFF"),
            ("cp850", "Ð", b"\xD1"),
            ("iso-8859-15", "€", b"\xA4"),
            ("windows-1251", "отчёт", b"\xEE\xF2\xF7\xB8\xF2"),
            ("shift_jis", "表", b"\x95\x5C"),
            ("gbk", "文件", b"\xCE\xC4\xBC\xFE"),
            ("latin1", "日本", "日本".as_bytes()),
            // In the charset these would be the UTF-8 of something else.
            ("latin1", "Ã¼", "Ã¼".as_bytes()),
            ("gbk", "模", "模".as_bytes()),
        ] {
            let charset = charset(label);
            assert_eq!(*charset.shown(name.as_bytes()), *shown, "{label}: {name}");
            assert_eq!(*charset.name(shown), *name.as_bytes(), "{label}: {name}");
        }
        assert_eq!(*charset("latin1").shown(b"\xFC"), *b"\xFC", "what is no text is shown as it is");
        assert_eq!(*charset("shift_jis").name(b"\x95"), *b"\x95", "what is no text is meant as it is");
        assert_eq!(*charset("latin1").shown_path("/ä/日/x".as_bytes()), *b"/\xE4/\xE6\x97\xA5/x");
    }

    #[test]
    fn code_pages_have_each_character_once() {
        for page in [CODE_PAGE_437, CODE_PAGE_850] {
            let mut characters: Vec<char> = page.chars().collect();
            characters.sort_unstable();
            characters.dedup();
            assert_eq!(characters.len(), 128);
        }
    }

    proptest! {
        #[test]
        fn a_name_that_is_text_is_found_again(name in "\\PC{0,12}|[ -ÿ]{0,12}|[Ѐ-ӿ一-丿]{0,8}", label in 0..LABELS.len()) {
            let charset = charset(LABELS[label]);
            let shown = charset.shown(name.as_bytes());
            prop_assert_eq!(&*charset.name(&shown), name.as_bytes());
        }

        /// A separator, a line end or NUL comes of nothing else.
        #[test]
        fn bytes_that_mean_something_to_ftp_stay(sent in prop::collection::vec(any::<u8>(), 0..32), label in 0..LABELS.len()) {
            let charset = charset(LABELS[label]);
            for special in *b"/\r\n\0" {
                let count = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == special).count();
                prop_assert_eq!(count(&charset.name(&sent)), count(&sent));
                prop_assert_eq!(count(&charset.shown(&sent)), count(&sent));
            }
        }
    }
}
