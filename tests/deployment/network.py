"""Network namespaces that a test makes and removes, and commands in them."""

import contextlib
import os
import subprocess

import gateway


class Network:
    """Namespaces that know each other by short names; links and processes of theirs end with them."""

    def __init__(self, *names):
        self.names = {name: f"{name}-{os.getpid()}" for name in names}
        with contextlib.ExitStack() as made:
            for name, full in self.names.items():
                self.batch(None, f"netns add {full}")
                made.callback(self.batch, None, f"netns delete {full}")
                self.batch(name, "link set lo up")
            self.made = made.pop_all()

    def batch(self, name, *lines):
        """Lines of `ip`, in a namespace or (None) outside."""
        where = ["-netns", self.names[name]] if name else []
        text = "\n".join(lines) + "\n"
        done = subprocess.run(["ip", *where, "-batch", "-"], check=False, input=text, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}{done.stderr}"

    def link(self, name, address, router, router_address):
        """A cable from a namespace's eth0 to a router's interface of the namespace's name, and the way out through it."""
        self.batch(
            None, f"link add {name} netns {self.names[router]} type veth peer name eth0 netns {self.names[name]}"
        )
        self.batch(router, f"address add {router_address} dev {name}", f"link set {name} up")
        self.batch(
            name, f"address add {address} dev eth0", "link set eth0 up",
            f"route add default via {router_address.split('/')[0]}",
        )

    def inside(self, name, hosts=None):
        """What to put before a command that is to run in a namespace, with a file in the place of /etc/hosts if one is given.

        Each part becomes the next one: the process is the command's own.
        """
        entered = ["ip", "netns", "exec", self.names[name]]
        if hosts:
            entered += ["sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
        return entered

    def run(self, name, *command, **how):
        return gateway.run(*self.inside(name), *command, **how)

    def end(self):
        self.made.close()
