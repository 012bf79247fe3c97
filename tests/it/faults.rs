//! The whole gateway against a backend that misbehaves by script.
