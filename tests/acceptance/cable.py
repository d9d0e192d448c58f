"""A network whose packets are lost, late, doubled and spoiled, between the TCP stacks of two network namespaces.

Each end is a tun device; what one sends, a thread hands to the other, as tc's netem would where the kernel has it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

import pytest

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000  # sched.h
NET = "198.18.{}.{}"  # RFC 2544: addresses for tests of networks, routed nowhere
LONGEST = 65536  # bytes of a packet


class NoCable(Exception):
    """The machine allows no network namespaces or no tun devices."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What befalls packets: shares of them, and seconds. Jitter alone makes them overtake each other."""

    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    doubled: float = 0.0
    spoiled: float = 0.0


FAIR = Weather()
FAR = Weather(loss=0.05, delay=0.2, jitter=0.1)
SILENCE = Weather(loss=1.0)


class Cable:
    """`listener` takes connections to the far end, from the near one only: all packets pass here."""

    def __init__(self, seed: int = 1) -> None:
        self._out = self._back = FAIR
        self.packets = 0
        self._dice = random.Random(seed)
        self._due: list[tuple[float, int, int, bytes]] = []  # when, number, to which device, packet
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._over = False
        self._name = f"aa{os.getpid()}"

    def __enter__(self) -> Cable:
        block = os.getpid() % 256
        failed: list[Exception] = []
        maker = threading.Thread(target=self._make_far_end, args=(NET.format(block, 2), failed))
        maker.start()
        maker.join()
        try:
            if failed:
                raise failed[0]
            self._near = self._device(NET.format(block, 1))
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoCable(f"no network of its own: {error}") from error
        ways = ((self._near, self._far), (self._far, self._near))
        self._threads = [threading.Thread(target=self._listen, args=way, daemon=True) for way in ways]
        self._threads.append(threading.Thread(target=self._send, daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        for thread in self._threads:
            thread.join()
        self.listener.close()
        for device in (self._near, self._far):
            os.close(device)

    @contextlib.contextmanager
    def in_weather(self, out: Weather, back: Weather = FAIR) -> Iterator[None]:
        """Bad weather for what goes to the far end, and for what comes back, for as long as the block runs."""
        self._out, self._back = out, back
        try:
            yield
        finally:
            self._out = self._back = FAIR

    @contextlib.contextmanager
    def pulled_out(self) -> Iterator[None]:
        """The near end is down for as long as the block runs: no route leads there any more."""
        _ip("link", "set", self._name, "down")
        try:
            yield
        finally:
            _ip("link", "set", self._name, "up")

    def _make_far_end(self, address: str, failed: list[Exception]) -> None:
        """What a thread unshares is its own; the device and the socket stay in the namespace when it has ended."""
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "no network namespace")
            self._far = self._device(address)
            self.listener = socket.create_server((address, 0), backlog=128)
        except Exception as error:  # noqa: BLE001 - raised again by who made the thread
            failed.append(error)

    def _device(self, address: str) -> int:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", self._name.encode(), IFF_TUN | IFF_NO_PI))
        _ip("addr", "add", f"{address}/30", "dev", self._name)
        _ip("link", "set", self._name, "up")
        return device

    def _listen(self, source: int, sink: int) -> None:
        while not self._over:
            select.select([source], [], [], 0.1)
            try:
                packet = os.read(source, LONGEST)
            except BlockingIOError:
                continue
            except OSError:  # that end is down
                time.sleep(0.01)
                continue
            weather, dice = self._out if source == self._near else self._back, self._dice
            for _ in range(1 + (dice.random() < weather.doubled)):
                self.packets += 1
                if dice.random() < weather.loss:
                    continue
                due = time.monotonic() + max(0.0, weather.delay + dice.uniform(-weather.jitter, weather.jitter))
                sent = _spoiled(packet, dice) if dice.random() < weather.spoiled else packet
                with self._changed:
                    heapq.heappush(self._due, (due, next(self._numbers), sink, sent))
                    self._changed.notify()

    def _send(self) -> None:
        with self._changed:
            while not self._over:
                if not self._due:
                    self._changed.wait()
                    continue
                left = self._due[0][0] - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                _, _, sink, packet = heapq.heappop(self._due)
                with contextlib.suppress(OSError):  # that end is down
                    os.write(sink, packet)


@contextlib.contextmanager
def laid() -> Iterator[Cable]:
    """A cable; where the machine allows none, the test is skipped."""
    try:
        with Cable() as cable:
            yield cable
    except NoCable as error:
        pytest.skip(str(error))


def _spoiled(packet: bytes, dice: random.Random) -> bytes:
    """One bit behind the IP header turned: what the checksum of TCP is for."""
    bit = dice.randrange(20 * 8, len(packet) * 8)
    return packet[: bit // 8] + bytes((packet[bit // 8] ^ 1 << bit % 8,)) + packet[bit // 8 + 1 :]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
