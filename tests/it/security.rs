//! TLS, the protection of data connections, and hostile bytes on the control connection.
