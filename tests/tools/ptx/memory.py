"""Global and shared memory that check every access.

Both hold bytes, take one address per lane (a lane is a thread of one of the CTAs that run
together), and move ``size`` bytes for each lane in ``active``; ``size`` is a power of two up to 16,
to which addresses must be aligned. Data are uint8 arrays [active lanes, size].
"""

from collections.abc import Sequence

import numpy as np

GUARD = 64  # bytes on either side of each array
POISON = 0xA5
SLOT_BITS = 40  # each array has 2**40 addresses to itself and starts in their middle
MIDDLE = 1 << (SLOT_BITS - 1)


class Fault(RuntimeError):
    """A kernel did what would be an error or undefined on a GPU."""

    def __init__(self, message: str, lane: int = 0) -> None:
        super().__init__(message)
        self.lane = lane


def check_alignment(addresses: np.ndarray, size: int, active: np.ndarray, where: str) -> None:
    wrong = active & (addresses & addresses.dtype.type(size - 1) != 0)
    if wrong.any():
        lane = int(wrong.argmax())
        raise Fault(
            f"misaligned access: {size} bytes at {where} address {addresses[lane]:#x}", lane
        )


class Global:
    """The arrays a kernel was given, far apart, between guard bands of poison.

    An address belongs to the array in whose slot it lies, so that no overrun reaches a neighbour.
    Arrays that numpy holds read-only may not be stored to.
    """

    def __init__(self, arrays: Sequence[np.ndarray], names: Sequence[str]) -> None:
        self.arrays = arrays
        self.names = names
        self.sizes = np.array([array.nbytes for array in arrays], np.int64)
        # 16-byte slots and starts keep every aligned address aligned in self.data.
        spans = -(-self.sizes // 16) * 16 + 2 * GUARD
        self.starts = np.cumsum(spans) - spans + GUARD
        self.data = np.full(int(spans.sum()), POISON, np.uint8)
        for array, part in zip(arrays, self.parts(), strict=True):
            if not array.flags.c_contiguous:
                raise ValueError(f"arrays must be C-contiguous, got strides {array.strides}")
            part[:] = array.reshape(-1).view(np.uint8)

    def parts(self) -> list[np.ndarray]:
        ends = self.starts + self.sizes
        return [self.data[a:b] for a, b in zip(self.starts, ends, strict=True)]

    def pointers(self) -> list[int]:
        """The address of each array."""
        return [((i + 1) << SLOT_BITS) + MIDDLE for i in range(len(self.arrays))]

    def copy_back(self) -> None:
        """Write the results into the arrays, and check that the guard bands are as they were."""
        for array, part in zip(self.arrays, self.parts(), strict=True):
            if array.flags.writeable:
                array.reshape(-1).view(np.uint8)[:] = part
            part[:] = POISON
        if (self.data != POISON).any():
            raise AssertionError("the emulator wrote into a guard band")

    def load(self, addresses: np.ndarray, size: int, active: np.ndarray) -> np.ndarray:
        places = self.locate(addresses, size, active)[0]
        return self.data[places[:, None] + np.arange(size)]

    def store(self, addresses: np.ndarray, size: int, active: np.ndarray, data: np.ndarray) -> None:
        places, owners = self.locate(addresses, size, active)
        for owner in np.unique(owners):
            if not self.arrays[owner].flags.writeable:
                raise Fault(
                    f"store to {self.names[owner]}, a read-only array",
                    int(np.flatnonzero(active)[(owners == owner).argmax()]),
                )
        self.data[places[:, None] + np.arange(size)] = data

    def locate(
        self, addresses: np.ndarray, size: int, active: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(place in self.data, owner) of each active lane's access."""
        check_alignment(addresses, size, active, "global")
        chosen = addresses[active]
        owners = (chosen >> np.uint64(SLOT_BITS)).astype(np.int64) - 1
        known = (owners >= 0) & (owners < len(self.arrays))
        if not known.all():
            wrong = int((~known).argmax())
            lane = int(np.flatnonzero(active)[wrong])
            raise Fault(f"out of bounds: global address {chosen[wrong]:#x} in no array", lane)
        offsets = (chosen & np.uint64((1 << SLOT_BITS) - 1)).astype(np.int64) - MIDDLE
        outside = (offsets < 0) | (offsets + size > self.sizes[owners])
        if outside.any():
            wrong = int(outside.argmax())
            name, total = self.names[owners[wrong]], self.sizes[owners[wrong]]
            raise Fault(
                f"out of bounds: {size} bytes at offset {offsets[wrong]} of {name} ({total} bytes)",
                int(np.flatnonzero(active)[wrong]),
            )
        return self.starts[owners] + offsets, owners


UNWRITTEN = -1
IN_FLIGHT = -2
MANY = -1


class Shared:
    """Shared memory of the CTAs that run together, ``size`` bytes each.

    Each byte remembers which warp last wrote and which last read it, and in which interval between
    two barriers of its CTA. A read of what another warp wrote in the same interval is a race, and
    so is a write over what another warp read. (Two warps that write one byte are not: Triton lets
    warps store equal copies.)
    """

    def __init__(self, ctas: int, size: int, threads: int) -> None:
        self.size = -(-size // 16) * 16
        self.limit = size
        total = ctas * self.size
        lanes = np.arange(ctas * threads)
        self.cta = lanes // threads
        self.warp = (lanes // 32).astype(np.int32)
        self.interval = np.zeros(ctas, np.int32)
        self.data = np.full(total, POISON, np.uint8)
        self.written = np.full(total, UNWRITTEN, np.int32)
        self.writer = np.full(total, MANY, np.int32)
        self.read = np.full(total, UNWRITTEN, np.int32)
        self.reader = np.full(total, MANY, np.int32)

    def barrier(self, ctas: np.ndarray) -> None:
        """Begin a new interval in the CTAs of a mask."""
        self.interval[ctas] += 1

    def load(self, addresses: np.ndarray, size: int, active: np.ndarray) -> np.ndarray:
        places, now, warps = self.locate(addresses, size, active)
        written = self.written[places]
        self.refuse(written == UNWRITTEN, active, "read of uninitialised shared memory")
        self.refuse(written == IN_FLIGHT, active, "read of shared memory before cp.async.wait")
        race = (written == now) & (self.writer[places] != warps)
        self.refuse(race, active, "race: shared memory that another warp wrote, no barrier since")
        others = (self.read[places] == now) & (self.reader[places] != warps)
        self.read[places] = now
        self.reader[places] = np.where(others, MANY, warps)
        # Lanes of several warps may read one byte in this very instruction.
        several = self.reader[places] != warps
        self.reader[places[several]] = MANY
        return self.data[places]

    def store(self, addresses: np.ndarray, size: int, active: np.ndarray, data: np.ndarray) -> None:
        places, now, warps = self.claim(addresses, size, active)
        self.data[places] = data
        self.written[places] = now
        self.writer[places] = warps

    def announce(self, addresses: np.ndarray, size: int, active: np.ndarray) -> None:
        """An asynchronous copy to these addresses has begun: nobody may read them."""
        places, _, _ = self.claim(addresses, size, active)
        self.written[places] = IN_FLIGHT

    def claim(
        self, addresses: np.ndarray, size: int, active: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places that may be written now."""
        places, now, warps = self.locate(addresses, size, active)
        race = (self.read[places] == now) & (self.reader[places] != warps)
        self.refuse(race, active, "race: write to shared memory that another warp may still read")
        return places, now, warps

    def refuse(self, wrong: np.ndarray, active: np.ndarray, message: str) -> None:
        if wrong.any():
            raise Fault(message, int(np.flatnonzero(active)[wrong.any(1).argmax()]))

    def locate(
        self, addresses: np.ndarray, size: int, active: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bytes [active lanes, size], and each lane's interval and warp [active lanes, 1]."""
        check_alignment(addresses, size, active, "shared")
        offsets = addresses[active].astype(np.int64)
        outside = offsets + size > self.limit
        if outside.any():
            wrong = int(outside.argmax())
            raise Fault(
                f"out of bounds: {size} bytes at {offsets[wrong]} of {self.limit} bytes of shared "
                "memory",
                int(np.flatnonzero(active)[wrong]),
            )
        ctas = self.cta[active]
        places = (ctas * self.size + offsets)[:, None] + np.arange(size)
        return places, self.interval[ctas][:, None], self.warp[active][:, None]
