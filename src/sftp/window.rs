//! The request window of a pipelined read, sans-IO: which range to ask for next, and what can be handed on in order.
//!
//! SFTP lets a server answer a READ with fewer bytes than asked, and answer requests in any order
//! (draft-ietf-secsh-filexfer-02 §6.4, §6). Whatever it does, the bytes that come out are the file's, in order, and
//! the end is told only when end of file is the answer to the request *at the front*.
//!
//! Memory: the lengths of all ranges asked for and not yet handed on never exceed the capacity (one range is always
//! allowed). File data only comes when asked for, so that is a bound on the data held.

use std::collections::VecDeque;

use bytes::Bytes;

/// Requests asked for before the first reply: a small file costs few of them (OpenSSH's client begins the same way).
const FIRST_REQUESTS: usize = 4;

/// The most requests in flight, however small they are: bounds bookkeeping when a server answers in small pieces.
pub const MAX_REQUESTS: usize = 1024;

/// A chunk is never made smaller than this, however short the replies.
const MIN_CHUNK: u32 = 4096;

/// A range of the file to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Bytes; never 0.
    pub length: u32,
}

/// What can be handed on.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery<E> {
    /// The next bytes of the file.
    Data(Bytes),
    /// There are no more bytes.
    End,
    /// The request at the front failed.
    Failed(E),
    /// Nothing yet: the front is unanswered.
    Nothing,
}

/// A reply that does not fit its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Nothing was asked for at this offset.
    #[error("data for a range that was not asked for")]
    NotAsked,
    /// More bytes than asked for.
    #[error("more data than asked for")]
    TooLong,
    /// No bytes: neither data nor end of file.
    #[error("an empty data reply")]
    Empty,
}

/// The window. `E` is how a request can fail.
#[derive(Debug)]
pub struct ReadWindow<E> {
    chunk: u32,
    capacity: u64,
    /// Requests that may be in flight now; grows by one with each completion that was waited for.
    opened: usize,
    /// Whoever takes the bytes has taken all that were there and waits: more in flight would have helped. So the window
    /// comes to fit the latency of the server, doubling with each round trip, and stays small where the client is what
    /// is slow.
    starved: bool,
    /// In file order, without holes: each begins where the one before it ends. The front is to be handed on next.
    slots: VecDeque<Slot<E>>,
    next_offset: u64,
    /// No byte at or beyond this offset: an end of file was told there.
    end: u64,
    /// Where the caller thinks the file ends.
    expected_end: Option<u64>,
    asked: usize,
    wanted: usize,
    /// Sum of the lengths of all slots, less what was handed on.
    held: u64,
    last_short: u32,
}

#[derive(Debug)]
struct Slot<E> {
    offset: u64,
    length: u32,
    state: State<E>,
}

#[derive(Debug)]
enum State<E> {
    /// The rest of a short reply: to be asked for again.
    Wanted,
    Asked,
    Here(VecDeque<Bytes>),
    End,
    Failed(E),
}

impl<E> ReadWindow<E> {
    /// Reads from `offset` in requests of `chunk` bytes, holding at most `capacity` bytes.
    pub fn new(offset: u64, chunk: u32, capacity: usize) -> Self {
        Self {
            chunk: chunk.max(1),
            capacity: capacity as u64,
            opened: FIRST_REQUESTS,
            starved: true,
            slots: VecDeque::new(),
            next_offset: offset,
            end: u64::MAX,
            expected_end: None,
            asked: 0,
            wanted: 0,
            held: 0,
            last_short: 0,
        }
    }

    /// Says where the file is thought to end. A hint, never a truth: it makes one request end exactly there, and asks
    /// for only one range beyond it until that one turns out to hold data. Saves a round trip at the end of each file.
    pub fn expect_end(&mut self, end: u64) {
        self.expected_end = Some(end);
    }

    /// Is there a range to ask for now?
    pub fn has_request(&self) -> bool {
        self.gap().is_some() || self.fresh().is_some()
    }

    /// The range to ask for now, which from then on counts as asked for.
    pub fn next_request(&mut self) -> Option<Range> {
        if let Some(index) = self.gap() {
            return self.ask_gap(index);
        }
        let range = self.fresh()?;
        self.next_offset += u64::from(range.length);
        self.held += u64::from(range.length);
        self.asked += 1;
        self.slots.push_back(Slot { offset: range.offset, length: range.length, state: State::Asked });
        Some(range)
    }

    /// Takes the data that answers the request at `offset`.
    ///
    /// # Errors
    ///
    /// It does not fit; the read cannot go on.
    pub fn received(&mut self, offset: u64, data: Vec<Bytes>) -> Result<(), WindowError> {
        let length: usize = data.iter().map(Bytes::len).sum();
        let index = self.asked_at(offset)?;
        let slot = self.slots.get_mut(index).ok_or(WindowError::NotAsked)?;
        let length = match u32::try_from(length) {
            Ok(0) => return Err(WindowError::Empty),
            Ok(length) if length <= slot.length => length,
            _ => return Err(WindowError::TooLong),
        };
        let rest = slot.length - length;
        slot.length = length;
        slot.state = State::Here(data.into());
        self.completed();
        if self.expected_end.is_some_and(|end| offset >= end) {
            // The file is longer than thought.
            self.expected_end = None;
        }
        if rest > 0 {
            let gap = Slot { offset: offset + u64::from(length), length: rest, state: State::Wanted };
            self.wanted += 1;
            self.slots.insert(index + 1, gap);
            // The same short length twice is the server's own maximum; once may be chance.
            if length == self.last_short && length >= MIN_CHUNK {
                self.chunk = self.chunk.min(length);
            }
            self.last_short = length;
            self.end_wanted();
        }
        Ok(())
    }

    /// Takes an end of file as the answer to the request at `offset`.
    ///
    /// # Errors
    ///
    /// There was no such request.
    pub fn end_of_file(&mut self, offset: u64) -> Result<(), WindowError> {
        let index = self.asked_at(offset)?;
        if let Some(slot) = self.slots.get_mut(index) {
            slot.state = State::End;
        }
        self.completed();
        self.end = self.end.min(offset);
        self.end_wanted();
        Ok(())
    }

    /// Takes a failure as the answer to the request at `offset`; it counts once it is at the front, so that a server
    /// which refuses to read beyond the end does no harm.
    ///
    /// # Errors
    ///
    /// There was no such request.
    pub fn failed(&mut self, offset: u64, error: E) -> Result<(), WindowError> {
        let index = self.asked_at(offset)?;
        if let Some(slot) = self.slots.get_mut(index) {
            slot.state = State::Failed(error);
        }
        self.completed();
        self.end = self.end.min(offset);
        Ok(())
    }

    /// Hands on what is at the front. After [`Delivery::End`] or [`Delivery::Failed`] there is nothing more to come.
    pub fn deliver(&mut self) -> Delivery<E> {
        let delivery = self.take_front();
        self.starved = matches!(delivery, Delivery::Nothing);
        delivery
    }

    fn take_front(&mut self) -> Delivery<E> {
        loop {
            let Some(front) = self.slots.front_mut() else {
                return Delivery::Nothing;
            };
            match &mut front.state {
                State::Wanted | State::Asked => return Delivery::Nothing,
                State::End => return Delivery::End,
                State::Failed(_) => {
                    return match self.slots.pop_front().map(|slot| slot.state) {
                        Some(State::Failed(error)) => Delivery::Failed(error),
                        _ => Delivery::Nothing,
                    };
                }
                State::Here(pieces) => match pieces.pop_front() {
                    Some(piece) if piece.is_empty() => {}
                    Some(piece) => {
                        self.held = self.held.saturating_sub(piece.len() as u64);
                        return Delivery::Data(piece);
                    }
                    None => {
                        self.slots.pop_front();
                    }
                },
            }
        }
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.asked
    }

    /// Bytes that are held or asked for.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// A gap that may be asked for: the first one, unless there are so many slots that only the front may go on. That
    /// bounds the slots when a server answers everything but the front, byte by byte.
    fn gap(&self) -> Option<usize> {
        if self.wanted == 0 || self.asked >= MAX_REQUESTS {
            return None;
        }
        let reach = if self.slots.len() < 2 * MAX_REQUESTS { self.slots.len() } else { 1 };
        self.slots.iter().take(reach).position(|slot| matches!(slot.state, State::Wanted))
    }

    fn ask_gap(&mut self, index: usize) -> Option<Range> {
        let chunk = self.chunk;
        let slot = self.slots.get_mut(index)?;
        let rest = slot.length.saturating_sub(chunk);
        slot.length -= rest;
        slot.state = State::Asked;
        let range = Range { offset: slot.offset, length: slot.length };
        self.asked += 1;
        self.wanted -= 1;
        if rest > 0 {
            let offset = range.offset + u64::from(range.length);
            self.slots.insert(index + 1, Slot { offset, length: rest, state: State::Wanted });
            self.wanted += 1;
        }
        Some(range)
    }

    /// A new range at the end of the window, if it has room.
    fn fresh(&self) -> Option<Range> {
        let offset = self.next_offset;
        if offset >= self.end || self.asked >= self.opened || self.slots.len() >= MAX_REQUESTS {
            return None;
        }
        let mut length = u64::from(self.chunk).min(u64::MAX - offset);
        if let Some(end) = self.expected_end {
            if offset < end {
                length = length.min(end - offset);
            } else if self.slots.back().is_some_and(|slot| slot.offset >= end) {
                return None;
            }
        }
        if !self.slots.is_empty() && self.held + length > self.capacity {
            return None;
        }
        u32::try_from(length).ok().filter(|length| *length > 0).map(|length| Range { offset, length })
    }

    fn asked_at(&self, offset: u64) -> Result<usize, WindowError> {
        let index = self.slots.binary_search_by_key(&offset, |slot| slot.offset).map_err(|_| WindowError::NotAsked)?;
        match self.slots.get(index) {
            Some(Slot { state: State::Asked, .. }) => Ok(index),
            _ => Err(WindowError::NotAsked),
        }
    }

    fn completed(&mut self) {
        self.asked -= 1;
        if self.starved {
            self.opened = (self.opened + 1).min(MAX_REQUESTS);
        }
    }

    /// Gaps at or beyond a known end need not be asked for: they are the end.
    fn end_wanted(&mut self) {
        for slot in self.slots.iter_mut().rev().take_while(|slot| slot.offset >= self.end) {
            if matches!(slot.state, State::Wanted) {
                slot.state = State::End;
                self.wanted -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Window = ReadWindow<&'static str>;

    /// Answers every request from `file` in the order and with the shortening `choose` says.
    fn read(window: &mut Window, file: &[u8], mut choose: impl FnMut(usize) -> usize, shortest: u32) -> Vec<u8> {
        let (mut asked, mut output) = (Vec::new(), Vec::new());
        loop {
            while let Some(range) = window.next_request() {
                asked.push(range);
            }
            assert!(window.held <= window.capacity.max(u64::from(window.chunk)), "{} bytes held", window.held);
            assert!(!asked.is_empty(), "nothing to wait for, and no end");
            let range = asked.swap_remove(choose(asked.len()));
            let begin = usize::try_from(range.offset).unwrap().min(file.len());
            let whole = (range.length as usize).min(file.len() - begin);
            if whole == 0 {
                window.end_of_file(range.offset).unwrap();
            } else {
                let part = (shortest as usize + choose(whole)).clamp(1, whole);
                let data = Bytes::copy_from_slice(&file[begin..begin + part]);
                let cut = choose(part);
                window.received(range.offset, vec![data.slice(..cut), data.slice(cut..)]).unwrap();
            }
            loop {
                match window.deliver() {
                    Delivery::Data(data) => output.extend_from_slice(&data),
                    Delivery::End => return output,
                    Delivery::Nothing => break,
                    Delivery::Failed(error) => panic!("{error}"),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_order_and_any_short_reads_give_the_file(
            file in prop::collection::vec(any::<u8>(), 0..6000),
            chunk in 1_u32..700,
            capacity in 0_usize..5000,
            expected in prop::option::of(0_u64..7000),
            shortest in prop_oneof![Just(0_u32), Just(700)],
            seed in prop::collection::vec(any::<usize>(), 1..50),
        ) {
            let mut window = Window::new(0, chunk, capacity);
            if let Some(end) = expected {
                window.expect_end(end);
            }
            let mut seed = seed.iter().cycle();
            let output = read(&mut window, &file, |count| seed.next().unwrap() % count.max(1), shortest);
            prop_assert_eq!(output, file);
        }

        #[test]
        fn a_read_from_the_middle_gives_the_rest(offset in 0_u64..300, chunk in 1_u32..50) {
            let file: Vec<u8> = (0..=255).collect();
            let output = read(&mut Window::new(offset, chunk, 200), &file, |_| 0, 700);
            prop_assert_eq!(&output[..], &file[usize::try_from(offset).unwrap().min(256)..]);
        }
    }

    #[test]
    fn opens_with_four_and_grows_by_one_with_each_completion_up_to_the_capacity() {
        let mut window = Window::new(0, 10, 80);
        let first: Vec<_> = std::iter::from_fn(|| window.next_request()).collect();
        assert_eq!(first.iter().map(|range| range.offset).collect::<Vec<_>>(), [0, 10, 20, 30]);
        window.received(0, vec![Bytes::from_static(&[0; 10])]).unwrap();
        assert_eq!(std::iter::from_fn(|| window.next_request()).count(), 2, "one for the completion, one more");
        for offset in [10, 20, 30, 40, 50] {
            window.received(offset, vec![Bytes::from_static(&[0; 10])]).unwrap();
        }
        assert_eq!(std::iter::from_fn(|| window.next_request()).count(), 2, "80 bytes are held");
        assert!(matches!(window.deliver(), Delivery::Data(_)));
        assert_eq!(std::iter::from_fn(|| window.next_request()).count(), 1, "room for one");
    }

    #[test]
    fn the_window_does_not_open_for_a_consumer_that_is_slower_than_the_server() {
        let mut window = Window::new(0, 10, 1000);
        let mut asked: VecDeque<_> = std::iter::from_fn(|| window.next_request()).collect();
        let answer = |window: &mut Window, range: Range| window.received(range.offset, vec![Bytes::from(vec![0; 10])]);
        // It always finds something: each answer came while the one before was being taken.
        answer(&mut window, asked.pop_front().unwrap()).unwrap();
        for _ in 0..20 {
            assert!(matches!(window.deliver(), Delivery::Data(_)));
            answer(&mut window, asked.pop_front().unwrap()).unwrap();
            asked.extend(std::iter::from_fn(|| window.next_request()));
            assert!(window.in_flight() <= FIRST_REQUESTS + 1, "{} in flight", window.in_flight());
        }
        // Now it is quicker, and waits.
        while matches!(window.deliver(), Delivery::Data(_)) {}
        for _ in 0..20 {
            answer(&mut window, asked.pop_front().unwrap()).unwrap();
            asked.extend(std::iter::from_fn(|| window.next_request()));
            while matches!(window.deliver(), Delivery::Data(_)) {}
        }
        assert!(window.in_flight() > 4 * FIRST_REQUESTS, "{} in flight", window.in_flight());
    }

    #[test]
    fn an_end_of_file_behind_the_front_ends_nothing() {
        let mut window = Window::new(0, 10, 1000);
        while window.next_request().is_some() {}
        window.end_of_file(30).unwrap();
        assert_eq!(window.deliver(), Delivery::Nothing);
        window.received(0, vec![Bytes::from_static(&[1; 4])]).unwrap();
        assert_eq!(window.deliver(), Delivery::Data(Bytes::from_static(&[1; 4])));
        assert_eq!(window.deliver(), Delivery::Nothing);
        assert_eq!(window.next_request(), Some(Range { offset: 4, length: 6 }), "the rest of the short reply");
        assert_eq!(window.next_request(), None, "nothing beyond the end is asked for");
        window.end_of_file(4).unwrap();
        assert_eq!(window.deliver(), Delivery::End);
        assert_eq!(window.deliver(), Delivery::End);
    }

    #[test]
    fn a_failure_beyond_the_end_of_file_is_not_a_failure_of_the_read() {
        let mut window = Window::new(0, 10, 1000);
        while window.next_request().is_some() {}
        for offset in [10, 20, 30] {
            window.failed(offset, "beyond the end").unwrap();
        }
        window.received(0, vec![Bytes::from_static(&[1; 4])]).unwrap();
        assert!(matches!(window.deliver(), Delivery::Data(_)));
        assert_eq!(window.next_request(), Some(Range { offset: 4, length: 6 }));
        window.end_of_file(4).unwrap();
        assert_eq!(window.deliver(), Delivery::End);
    }

    #[test]
    fn a_failure_at_the_front_comes_after_the_bytes_before_it() {
        let mut window = Window::new(0, 10, 1000);
        while window.next_request().is_some() {}
        window.failed(10, "no").unwrap();
        window.received(0, vec![Bytes::from_static(&[1; 10])]).unwrap();
        assert!(matches!(window.deliver(), Delivery::Data(_)));
        assert_eq!(window.deliver(), Delivery::Failed("no"));
    }

    #[test]
    fn replies_that_do_not_fit_are_refused() {
        let mut window = Window::new(0, 10, 1000);
        while window.next_request().is_some() {}
        assert_eq!(window.received(0, vec![Bytes::from_static(&[1; 11])]), Err(WindowError::TooLong));
        assert_eq!(window.received(0, vec![Bytes::new()]), Err(WindowError::Empty));
        assert_eq!(window.received(5, vec![Bytes::from_static(b"x")]), Err(WindowError::NotAsked));
        window.received(0, vec![Bytes::from_static(b"x")]).unwrap();
        assert_eq!(window.received(0, vec![Bytes::from_static(b"x")]), Err(WindowError::NotAsked));
        assert_eq!(window.end_of_file(0), Err(WindowError::NotAsked));
        assert_eq!(window.failed(999, ""), Err(WindowError::NotAsked));
    }

    #[test]
    fn a_known_size_costs_one_request_beyond_the_end_and_no_second_round_trip() {
        let mut window = Window::new(0, 10, 1000);
        window.expect_end(25);
        let asked: Vec<_> =
            std::iter::from_fn(|| window.next_request()).map(|range| (range.offset, range.length)).collect();
        assert_eq!(asked, [(0, 10), (10, 10), (20, 5), (25, 10)]);
        for (offset, length) in asked.into_iter().take(3) {
            window.received(offset, vec![Bytes::from(vec![7; length as usize])]).unwrap();
        }
        assert_eq!(window.next_request(), None);
        window.received(25, vec![Bytes::from_static(&[7; 10])]).unwrap();
        assert!(window.next_request().is_some(), "the file has grown: reading goes on");
    }

    #[test]
    fn a_server_with_a_smaller_maximum_is_learned_after_two_replies() {
        let mut window = Window::new(0, 60_000, 1_000_000);
        while window.next_request().is_some() {}
        window.received(0, vec![Bytes::from(vec![0; 8192])]).unwrap();
        assert_eq!(window.next_request(), Some(Range { offset: 8192, length: 51_808 }), "once may be chance");
        window.received(60_000, vec![Bytes::from(vec![0; 8192])]).unwrap();
        assert_eq!(window.next_request(), Some(Range { offset: 68_192, length: 8192 }));
    }

    #[test]
    fn byte_by_byte_answers_to_all_but_the_front_stay_bounded() {
        let mut window = Window::new(0, 60_000, 8 << 20);
        let mut asked = VecDeque::new();
        for _ in 0..50_000 {
            while let Some(range) = window.next_request() {
                if range.offset > 0 {
                    asked.push_back(range.offset);
                }
            }
            let Some(offset) = asked.pop_front() else { break };
            window.received(offset, vec![Bytes::from_static(b"x")]).unwrap();
        }
        assert!(window.slots.len() <= 4 * MAX_REQUESTS, "{} slots", window.slots.len());
    }
}
