//! What an operator sees: metrics, health, logs, and the end of the process.
