"""`python -m trainingsession_operator.mongodb_name HOST:PORT IP,IP`: waits until the host's name leads to this pod.

Init container of a MongoDB with several members: mongod looks for itself in its configuration when it starts, and a
name that is unknown or still leads to the former pod's address would take it out of the replica set.
"""

import signal
import socket
import sys
import time

PAUSE_SECONDS = 0.5


def leads_here(name: str, own: set[str]) -> bool:
    """Whether the name resolves to one of this pod's addresses, and to no other."""
    try:
        found = {str(answer[4][0]) for answer in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return bool(found) and found <= own


def main(host: str, addresses: str) -> None:
    """Wait, and say for what."""
    name, own = host.rpartition(":")[0], set(addresses.split(","))
    said = False
    while not leads_here(name, own):
        if not said:
            sys.stdout.write(f"waiting until the cluster's DNS says that {name} is {addresses}\n")
            sys.stdout.flush()
            said = True
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    # The first process of a container ignores the signal otherwise, and a pod that is deleted would wait for nothing.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main(*sys.argv[1:])
