"""A client that floods a server with warning alerts, which GnuTLS sends when asked to.

    gnutls_flood.py PORT VERSION COUNT

VERSION is TLS1.2 or TLS1.3. Prints `answered` where the server answers NOOP afterwards, else `closed`.
"""

import ctypes
import socket
import sys

GNUTLS_CLIENT = 1 << 1
GNUTLS_CRD_CERTIFICATE = 1
GNUTLS_AL_WARNING = 1
GNUTLS_A_USER_CANCELED = 90
# Both say that the same call is to be made again.
GNUTLS_E_AGAIN, GNUTLS_E_INTERRUPTED = -28, -52

gnutls = ctypes.CDLL("libgnutls.so.30")


def again(call, *arguments):
    while (result := call(*arguments)) in (GNUTLS_E_AGAIN, GNUTLS_E_INTERRUPTED):
        pass
    return result


def reply(session):
    """The next reply, or None where the connection has ended."""
    buffer = ctypes.create_string_buffer(4096)
    count = again(gnutls.gnutls_record_recv, session, buffer, ctypes.c_size_t(len(buffer)))
    return buffer.raw[:count] if count > 0 else None


def main(port, version, count):
    credentials, session = ctypes.c_void_p(), ctypes.c_void_p()
    assert gnutls.gnutls_certificate_allocate_credentials(ctypes.byref(credentials)) == 0
    assert gnutls.gnutls_init(ctypes.byref(session), GNUTLS_CLIENT) == 0
    priority = f"NORMAL:-VERS-ALL:+VERS-{version}".encode()
    assert gnutls.gnutls_priority_set_direct(session, priority, None) == 0
    assert gnutls.gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials) == 0
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        # GnuTLS waits itself.
        connection.setblocking(True)
        gnutls.gnutls_transport_set_int2(session, connection.fileno(), connection.fileno())
        assert again(gnutls.gnutls_handshake, session) == 0
        assert reply(session).startswith(b"220")
        for _ in range(count):
            if gnutls.gnutls_alert_send(session, GNUTLS_AL_WARNING, GNUTLS_A_USER_CANCELED) < 0:
                break
        gnutls.gnutls_record_send(session, b"NOOP\r\n", ctypes.c_size_t(6))
        answer = reply(session)
        print("closed" if answer is None else "answered")


main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
