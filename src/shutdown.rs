//! Signals and the two stages of a stop.
