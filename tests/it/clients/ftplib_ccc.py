"""ftplib leaves TLS on the control connection with CCC: arguments are the port, the CA file, the user and the password."""

import ftplib
import ssl
import sys

port, authority, user, password = sys.argv[1:]
ftp = ftplib.FTP_TLS(context=ssl.create_default_context(cafile=authority))
ftp.connect("localhost", int(port))
ftp.login(user, password)
ftp.prot_p()
ftp.ccc()
assert ftp.pwd() == "/"


def refused(command: str, code: str) -> None:
    try:
        reply = ftp.sendcmd(command)
    except ftplib.error_perm as error:
        assert str(error).startswith(code), error
    else:
        raise AssertionError(f"{command}: {reply}")


for command in "PBSZ 0", "PROT C", "AUTH TLS":
    refused(command, "503")
refused("CCC", "533")
assert "in clear" in ftp.sendcmd("STAT")
# Data connections are what PROT made them.
names: list[str] = []
ftp.retrlines("NLST", names.append)
assert len(names) == 4, names
ftp.quit()
