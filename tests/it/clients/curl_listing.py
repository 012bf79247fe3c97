"""LIST as libcurl parses it for its wildcards (CURLOPT_WILDCARDMATCH), which the program curl has no option for.

    curl_listing.py MODE VERSION PORT AUTHORITY USER PASSWORD DIRECTORY

A line for each entry: kind (file, dir or link), size, date as it is written in the listing, name in hexadecimal digits.
"""

import ctypes
import sys

SSLVERSIONS = {"1.2": 6 | 6 << 16, "1.3": 7 | 7 << 16}
# curl/curl.h: CURLOPT_*, with their types' offsets added.
WRITEFUNCTION, CHUNK_BGN_FUNCTION = 20011, 20198
URL, USERNAME, PASSWORD, CAINFO = 10002, 10173, 10174, 10065
USE_SSL, SSLVERSION, WILDCARDMATCH = 119, 32, 197
USESSL_ALL = 3
CHUNK_BGN_FUNC_SKIP = 2
# curlfiletype
KINDS = {0: "file", 1: "dir", 2: "link"}


class FileInfo(ctypes.Structure):
    """struct curl_fileinfo, to the texts of its line."""

    _fields_ = [
        ("filename", ctypes.c_char_p),
        ("filetype", ctypes.c_int),
        ("time", ctypes.c_int64),
        ("perm", ctypes.c_uint),
        ("uid", ctypes.c_int),
        ("gid", ctypes.c_int),
        ("size", ctypes.c_int64),
        ("hardlinks", ctypes.c_long),
        ("time_text", ctypes.c_char_p),
    ]


@ctypes.CFUNCTYPE(ctypes.c_long, ctypes.POINTER(FileInfo), ctypes.c_void_p, ctypes.c_int)
def entry(info, _data, _remaining):
    info = info.contents
    date = info.time_text.decode().replace(" ", "_")
    print(KINDS.get(info.filetype, info.filetype), info.size, date, info.filename.hex())
    return CHUNK_BGN_FUNC_SKIP


def main():
    mode, version, port, authority, user, password, directory = sys.argv[1:]
    curl = ctypes.CDLL("libcurl.so.4")
    curl.curl_easy_init.restype = ctypes.c_void_p
    curl.curl_easy_strerror.restype = ctypes.c_char_p
    handle = ctypes.c_void_p(curl.curl_easy_init())
    scheme = {"explicit": "ftp", "implicit": "ftps"}[mode]
    for option, value in (
        (URL, f"{scheme}://127.0.0.1:{port}/{directory}/*".encode()),
        (USERNAME, user.encode()),
        (PASSWORD, password.encode()),
        (CAINFO, authority.encode()),
        (USE_SSL, ctypes.c_long(USESSL_ALL)),
        (SSLVERSION, ctypes.c_long(SSLVERSIONS[version])),
        (WILDCARDMATCH, ctypes.c_long(1)),
        (CHUNK_BGN_FUNCTION, entry),
    ):
        code = curl.curl_easy_setopt(handle, option, value)
        assert code == 0, (option, code)
    code = curl.curl_easy_perform(handle)
    assert code == 0, curl.curl_easy_strerror(code)


main()
