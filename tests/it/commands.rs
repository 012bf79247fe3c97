//! Every command of the table against a real server: success, and each refusal with its code.
