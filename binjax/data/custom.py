"""The user's own sets by name: a folder of pictures, a .npz file, a Python function."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from binjax.data.dataset import Dataset, Info, check_limits, check_memory, count_train
from binjax.data.errors import DataError
from binjax.data.folder import folder_info, read_folder
from binjax.data.function import call_function
from binjax.data.labelled import npz_headers, npz_labels, read_npz
from binjax.data.paths import find_directory

CUSTOM = {
    "folder": "pictures in train/<class>/ and test/<class>/: data.dir, data.image_size",
    "npz": "arrays x_train, y_train, x_test, y_test: data.file",
    "python": "what a function of yours returns: data.function",
}


@dataclass(frozen=True)
class Custom:
    """A set of the user's own.

    Attributes:
        name: one of `CUSTOM`.
        directory: of "folder"; of "npz" where `file` is, if given.
        file: of "npz".
        function: of "python", see :func:`binjax.data.function.call_function`.
        image_size: of "folder": (height, width) in memory.
        channels: of "folder": 1 or 3.
        memory_gib: the most that images may take.
    """

    name: str
    directory: str | Path | None = None
    file: str | Path | None = None
    function: str | None = None
    image_size: tuple[int, int] | None = None
    channels: int = 3
    memory_gib: float = 8.0

    def describe(self) -> Info:
        """Size, classes and numbers of images. Pictures aren't decoded; a function is called."""
        if self.name == "folder":
            return replace(folder_info(self._root(), self.image_size, self.channels), name="folder")
        if self.name == "npz":
            headers, labels = npz_headers(self._npz()), npz_labels(self._npz())
            train, test = headers["x_train"][0], headers["x_test"][0]
            images = len(train) in (3, 4) and len(test) == len(train) and test[0]
            if not images or labels.dtype.kind not in "iu" or not labels.size:
                raise self._unlike()
            n_classes = int(labels.max()) + 1
            if labels.shape not in ((train[0],), (train[0], 1)) or not 0 < n_classes <= train[0]:
                raise self._unlike()
            shape = (train[1], train[2], train[3] if len(train) == 4 else 1)
            return Info("npz", shape, n_classes, train[0], test[0], 0)
        found = call_function(self._function())
        n_held_out = len(found.validation)
        n_train = len(found.train) + n_held_out
        return Info(
            "python", found.image_shape, found.n_classes, n_train, len(found.test), n_held_out
        )

    def load(
        self, validation: int | None, limit_train: int | None, limit_test: int | None
    ) -> Dataset:
        """Read it, see :func:`binjax.data.load`."""
        check_limits(limit_train, limit_test)
        if self.name == "folder":
            found = read_folder(
                self._root(),
                self.image_size,
                self.channels,
                validation=validation,
                limit_train=limit_train,
                limit_test=limit_test,
                memory_gib=self.memory_gib,
            )
            return replace(found, name="folder")
        if self.name == "npz":
            where = str(self._npz())
            found = read_npz(self._npz(), self.memory_gib)
        else:
            where = f"data.function {self.function}"
            found = call_function(self._function())
            n_bytes = sum(s.images.nbytes for s in (found.train, found.validation, found.test))
            check_memory(f"{where}: its images", n_bytes, self.memory_gib)
        train, held_out = found.train, found.validation
        if len(held_out) and validation not in (None, len(held_out)):
            raise DataError(f"{where}: has validation images of its own: leave data.validation out")
        if not len(held_out):
            n = count_train(where, len(train), validation or 0)
            train, held_out = train[:n], train[n:]
        return replace(
            found,
            name=self.name,
            train=train[:limit_train],
            validation=held_out[:limit_test],
            test=found.test[:limit_test],
        )

    def _root(self) -> Path:
        if self.directory is None:
            raise DataError('data set "folder": name the folder: data.dir (--data.dir DIR)')
        return find_directory(self.directory)

    def _npz(self) -> Path:
        if self.file is None:
            raise DataError('data set "npz": name the file: data.file (--data.file FILE)')
        file = Path(self.file).expanduser()
        return file if self.directory is None else find_directory(self.directory) / file

    def _function(self) -> str:
        if self.function is None:
            raise DataError(
                'data set "python": name the function: data.function = "package.module:function"'
            )
        return self.function

    def _unlike(self) -> DataError:
        """What :func:`read_npz` says of arrays that are no set of images."""
        try:
            read_npz(self._npz(), self.memory_gib)
        except DataError as error:
            return error
        return DataError(f"{self.file}: is no set of images")
