//! How long a campaign runs: whole under `tests/run --full`, else in a short form.

/// Is this `tests/run --full`?
pub(crate) fn is_full() -> bool {
    std::env::var_os("FTPS2SFTP_TESTS").is_some_and(|value| value == "full")
}

/// How many rounds: `whole` of them under `tests/run --full`.
pub(crate) fn rounds(short: usize, whole: usize) -> usize {
    if is_full() { whole } else { short }
}

/// Numbers below `bound` that look random, and are the same for the same seed.
pub(crate) fn random(seed: u64, bound: usize) -> impl Iterator<Item = usize> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % bound as u64).unwrap()
    })
}
