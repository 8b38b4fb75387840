import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.data.image_files import FoundFile, FoundFiles, find_files, read_header
from markovae.data.image_reader import open_image


def header_of(path: Path):
    about = path.stat()
    return read_header(path.parent, FoundFile(path.name, about.st_size))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG header that claims a size, with no pixels behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_images_are_found_in_any_case_and_depth_and_others_counted(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("x.PNG", "a/y.JpG", "a/b/z.TIFF"):
        (tmp_path / name).write_bytes(b"1")
    for name in ("notes.txt", ".hidden.png", "a/._mac.jpg"):
        (tmp_path / name).write_bytes(b"1")
    found = find_files(tmp_path)
    assert [file.path for file in found.files] == ["a/b/z.TIFF", "a/y.JpG", "x.PNG"]
    assert found.refused == []
    assert found.others == ["notes.txt"]
    assert found.hidden == [".hidden.png"]


def test_a_folder_keeps_its_own_name_whatever_links_to_it(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"1")
    (tmp_path / "b" / "more").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "z").symlink_to(tmp_path / "a", target_is_directory=True)
    assert [file.path for file in find_files(tmp_path).files] == ["a/x.png", "b/x.png"]


def test_links_pipes_and_loops_never_hang(tmp_path: Path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "x.png").write_bytes(b"1")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "linked.png").symlink_to(folder / "x.png")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "y.png").write_bytes(b"1")
    (folder / "more").symlink_to(elsewhere, target_is_directory=True)
    found = find_files(folder)
    assert [file.path for file in found.files] == ["linked.png", "more/y.png", "x.png"]
    reasons = dict(found.refused)
    assert set(reasons) == {"gone.png", "pipe.png", "self.png"}
    assert reasons["pipe.png"] == "not a regular file"
    assert "No such file" in reasons["gone.png"]
    assert found.hidden == ["pipe"]


@pytest.mark.parametrize("name", ["x.heic", "X.HEIF", "a/x.jxl", "x.jp2", "x.DNG", "x.cr2", "x.psd", "x.svg", "x.tga"])
def test_kinds_that_are_not_read_are_named(tmp_path: Path, name: str):
    (tmp_path / "a").mkdir()
    (tmp_path / name).write_bytes(b"1")
    found = find_files(tmp_path)
    assert [path for path, _ in found.refused] == [name]
    assert "is not read: save it as PNG or JPEG" in found.refused[0][1]


def test_what_systems_leave_behind_is_passed_over(tmp_path: Path):
    for name in (
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "._x.png",
        "__MACOSX/x.png",
        "@eaDir/x.jpg",
        "$RECYCLE.BIN/x.gif",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert find_files(tmp_path) == FoundFiles([], [], [], [])


def test_headers_say_mode_format_and_upright_size(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending in ("jpg", "tif", "png", "webp", "avif"):
        path = tmp_path / f"x.{ending}"
        Image.new("RGB", (20, 10)).save(path, exif=exif)
        header = header_of(path)
        assert (header.width, header.height, header.problem) == (10, 20, ""), ending
        assert header.mode == "RGB"
        assert not header.grey


def test_greyness_is_that_of_the_mode_or_of_the_palette(tmp_path: Path):
    for name, colours, grey in (("g", [0, 0, 0, 9, 9, 9], True), ("c", [0, 0, 0, 9, 8, 9], False)):
        image = Image.new("P", (2, 1))
        image.putpalette(colours)
        image.putdata([0, 1])
        image.save(tmp_path / f"{name}.png")
        assert header_of(tmp_path / f"{name}.png").grey is grey
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(tmp_path / "s.png")
    assert header_of(tmp_path / "s.png").grey


def test_transparency_animation_and_sixteen_bit_colour_are_seen(tmp_path: Path):
    Image.new("RGBA", (2, 2)).save(tmp_path / "a.png")
    assert header_of(tmp_path / "a.png").transparent
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "m.gif", save_all=True, append_images=frames[1:])
    assert header_of(tmp_path / "m.gif").animated
    deep = png_claiming(1, 1).replace(struct.pack(">IIB", 1, 1, 8), struct.pack(">IIB", 1, 1, 16))
    body = deep[12:29]
    (tmp_path / "d.png").write_bytes(deep[:29] + struct.pack(">I", zlib.crc32(body)) + deep[33:])
    assert header_of(tmp_path / "d.png").sixteen_bit_color


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not an image at all", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (png_claiming(9000, 9000), "9000x9000 is more than 48 megapixels"),
        (png_claiming(60000, 60000), "more than 48 megapixels"),
    ],
)
def test_bad_headers_give_a_reason(tmp_path: Path, content: bytes, reason: str):
    (tmp_path / "x.png").write_bytes(content)
    header = header_of(tmp_path / "x.png")
    assert reason in header.problem


def test_a_vanished_file_gives_a_reason(tmp_path: Path):
    header = read_header(tmp_path, FoundFile("gone.png", 5))
    assert "No such file" in header.problem


def test_forty_eight_megapixels_are_still_opened(tmp_path: Path):
    (tmp_path / "x.png").write_bytes(png_claiming(8192, 6144))
    with open_image(tmp_path / "x.png") as image:
        assert image.size == (8192, 6144)
