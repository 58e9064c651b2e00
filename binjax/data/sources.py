"""Where the public sets can be downloaded, and what their bytes must be.

SHA-256 of the served files: TensorFlow Datasets, `tensorflow_datasets/url_checksums/` (mnist.txt,
fashion_mnist.txt, cifar10.txt, cifar100.txt, svhn_cropped.txt). Those of the uncompressed IDX
files were computed from files whose labels equal the served ones bit for bit, and agree with the
values published in several public repositories. That of STL-10 is published in MLDatasets.jl and
three other public repositories; it was not checked against a download here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """One file to download.

    Attributes:
        name: file name, appended to the mirror's URL.
        sha256: of the file as served.
        content_sha256: of what is inside a .gz, so that a recompressed or plain copy is known too.
        members: for a .tar.gz, the members to extract; each lands under its last name part.
    """

    name: str
    sha256: str
    content_sha256: str | None = None
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A set's files and the base URLs to try, in order."""

    mirrors: tuple[str, ...]
    files: tuple[RemoteFile, ...]


SOURCES: dict[str, Source] = {
    "mnist": Source(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
        files=(
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
    ),
    "fashion-mnist": Source(
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        ),
        files=(
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
    ),
    "cifar10": Source(
        mirrors=("https://www.cs.toronto.edu/~kriz",),
        files=(
            RemoteFile(
                "cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                members=(
                    *(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
                    "cifar-10-batches-bin/test_batch.bin",
                ),
            ),
        ),
    ),
    "cifar100": Source(
        mirrors=("https://www.cs.toronto.edu/~kriz",),
        files=(
            RemoteFile(
                "cifar-100-binary.tar.gz",
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                members=("cifar-100-binary/train.bin", "cifar-100-binary/test.bin"),
            ),
        ),
    ),
    "stl10": Source(
        mirrors=(
            "https://cs.stanford.edu/~acoates/stl10",
            "http://ai.stanford.edu/~acoates/stl10",
        ),
        files=(
            RemoteFile(
                "stl10_binary.tar.gz",
                "f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
                members=tuple(
                    f"stl10_binary/{part}_{kind}.bin"
                    for part in ("train", "test")
                    for kind in ("X", "y")
                ),
            ),
        ),
    ),
    "svhn": Source(
        mirrors=("http://ufldl.stanford.edu/housenumbers",),
        files=(
            RemoteFile(
                "train_32x32.mat",
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            ),
            RemoteFile(
                "test_32x32.mat",
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            ),
            RemoteFile(
                "extra_32x32.mat",
                "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3",
            ),
        ),
    ),
}
