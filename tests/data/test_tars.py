import io
import os
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from markovae.data.tars import Member, members, samples


def tar_of(*files: tuple[str, bytes], **special: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, kind in special.items():
            entry = tarfile.TarInfo(f"{name}.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
    return buffer.getvalue()


def read(content: bytes) -> list[Member]:
    return list(members(io.BytesIO(content), len(content)))


def until_damage(content: bytes) -> tuple[list[Member], str]:
    """The members before the damage, and what is said of it."""
    found: list[Member] = []
    try:
        found.extend(members(io.BytesIO(content), len(content)))
    except ValueError as error:
        return found, str(error)
    return found, ""


def test_members_lie_where_they_say():
    files = [("a/1.png", b"one"), ("a/1.cls", b"7"), ("b" * 150 + ".png", b"x" * 1000), ("é.png", b"")]
    content = tar_of(*files)
    found = read(content)
    assert [(m.name, content[m.offset : m.offset + m.size]) for m in found] == files


def test_samples_are_members_up_to_the_first_dot():
    content = tar_of(
        ("x/1.seg.png", b"mask"),
        ("x/1.png", b"p"),
        ("x/1.cls", b"3"),
        ("x/1.txt", b"a cat"),
        ("x/2.txt", b"no image"),
        ("x.y/3.JPG", b"j"),
        ("x.y/3.cls", b"0" * (1 << 17)),
    )
    made = [one for one in samples(io.BytesIO(content), len(content)) if one.image]
    assert [s.image.name for s in made] == ["x/1.png", "x.y/3.JPG"]
    assert made[0].label is not None
    assert content[made[0].captions[0].offset :][:5] == b"a cat"
    assert made[1].label.size == 1 << 17, "whoever reads it refuses it"


def test_names_with_dots_hold_images_too_and_what_is_not_taken_is_listed():
    content = tar_of(
        ("Image 2021-05-03 at 10.11.12.jpeg", b"j"),
        ("Image 2021-05-03 at 10.11.12.txt", b"a cat"),
        ("2.rgb.jpg", b"p"),
        ("2.rgb.cls", b"3"),
        ("2.depth.png", b"d"),
        ("3.cls", b"no image"),
    )
    made = [one for one in samples(io.BytesIO(content), len(content)) if one.image]
    assert [s.image.name for s in made] == ["Image 2021-05-03 at 10.11.12.jpeg", "2.rgb.jpg"]
    assert [[m.name for m in s.others] for s in made] == [[], ["2.depth.png"]]
    assert made[0].captions
    assert made[1].label is not None


def test_links_devices_and_folders_are_passed_over_and_nothing_is_extracted(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = tar_of(
        ("../../up.png", b"a"),
        ("/abs.png", b"b"),
        link=tarfile.SYMTYPE,
        hard=tarfile.LNKTYPE,
        fifo=tarfile.FIFOTYPE,
        device=tarfile.CHRTYPE,
        folder=tarfile.DIRTYPE,
    )
    assert [m.name for m in read(content)] == ["../../up.png", "/abs.png"]
    assert not list(tmp_path.iterdir())
    assert not (tmp_path.parent.parent / "up.png").exists()


def test_a_tar_cut_anywhere_is_told_and_keeps_what_stands_before():
    content = tar_of(("1.png", b"a" * 700), ("2.png", b"b" * 700))
    whole = {m.name for m in read(content)}
    end = 4 * 512 + 2 * 512  # of the last member
    for cut in range(0, end + 512, 37):
        found, said = until_damage(content[:cut])
        assert "damaged tar" in said
        assert {m.name for m in found} <= whole


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = block[108:116] = block[116:124] = b"0000644\0"
    block[124:136] = size
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"5"])
def test_sizes_that_point_back_end_the_reading(kind: bytes):
    """GNU's base-256 sizes may be negative, which would send a reader round for ever."""
    negative = b"\xff" * 10 + (-1024 % 65536).to_bytes(2, "big")
    content = header(b"a.png", b"00000000000\0") + header(b"b.png", negative, kind) + bytes(1024)
    with pytest.raises(ValueError, match="damaged tar"):
        read(content)


def test_sizes_beyond_the_end_are_told():
    with pytest.raises(ValueError, match=r"damaged tar|middle"):
        read(header(b"a.png", b"77777777777\0") + bytes(1024))


@given(st.data())
def test_a_mutated_tar_never_hangs_and_never_points_outside(data: st.DataObject):
    content = bytearray(tar_of(("1.png", b"a" * 600), ("1.cls", b"4"), ("2.png", b"b" * 10)))
    for _ in range(data.draw(st.integers(1, 12))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    found, said = until_damage(bytes(content))
    assert said == "" or "damaged tar" in said
    assert all(m.offset >= 0 and m.offset + m.size <= len(content) for m in found)
    assert len(found) <= 8


def test_random_bytes_are_no_tar():
    for _ in range(20):
        with pytest.raises(ValueError, match="damaged tar"):
            read(os.urandom(2048))


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"])
def test_extensions_that_are_too_long_are_refused_by_their_header_alone(kind: bytes):
    """Python searches PAX headers in the square of their length, and reads names of GNU whole."""
    content = header(b"a.png", b"00000000000\0") + header(b"long", b"%011o\0" % 2**33, kind) + bytes(1024)
    began = time.process_time()
    found, said = until_damage(content)
    assert [m.name for m in found] == ["a.png"]
    assert "8,589,934,592 bytes more, and at most 65,536 are read" in said
    body = b"1" * 500_000
    assert "500,000 bytes more" in until_damage(header(b"long", b"%011o\0" % len(body), kind) + padded(body))[1]
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    "body",
    [
        b"1" * 65_000,
        b"2 " * 32_000,
        b"1 hdrcharset=" * 5000,
        b"12 a=bcdefg\n" + b"\0" * 10 + b"1 hdrcharset=" * 4900,
        b"%d a=%s\n" % (60_009, b"9" * 60_000),
        b"11 a=12345",
        b"0 a=b\n",
        b"7 abcd\n",
        b"-6 a=b\n",
    ],
)
def test_pax_headers_that_are_no_list_are_refused_in_no_time(body: bytes):
    began = time.process_time()
    said = until_damage(header(b"pax", b"%011o\0" % len(body), b"x") + padded(body) + header(b"a.png", b"0" * 11))[1]
    assert "a PAX header" in said
    assert time.process_time() - began < 0.5


def test_pax_headers_of_tools_are_read():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "of all"}) as tar:
        entry = tarfile.TarInfo("é" * 120 + ".png")
        entry.size, entry.mtime, entry.pax_headers = 3, 1.5, {"SCHILY.xattr.user.x": "1" * 200}
        tar.addfile(entry, io.BytesIO(b"abc"))
    assert [(m.name, m.size) for m in read(buffer.getvalue())] == [("é" * 120 + ".png", 3)]


def test_global_headers_without_end_are_refused():
    body = b"".join(b"%d k%05d=1\n" % (12, number) for number in range(1001))
    one = header(b"pax", b"%011o\0" % len(body), b"g") + padded(body)
    assert "more than 1,000 keys" in until_damage(2 * one + header(b"a.png", b"0" * 11))[1]


def test_a_sparse_file_cut_in_its_map_is_damage():
    block = bytearray(header(b"a.png", b"00000000000\0", b"S"))
    block[482] = 1  # its map goes on in further blocks, which are not there
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert "damaged tar" in until_damage(bytes(block))[1]


def test_names_without_end_are_refused_in_a_short_sentence():
    body = b"n" * 60_000 + b"\0"
    one = header(b"././@LongLink", b"%011o\0" % len(body), b"L") + padded(body)
    said = until_damage(one + header(b"a.png", b"00000000001\0") + bytes(512))[1]
    assert "a name has 60,000 characters" in said
    assert len(said) < 300


def test_images_first_and_texts_after_are_joined_and_nothing_is_lost():
    content = tar_of(
        ("1.png", b"p"),
        ("2.png", b"q"),
        ("__MACOSX/._1.png", b"litter"),
        ("._2.png", b"litter"),
        ("1.cls", b"0"),
        ("2.cls", b"1"),
        ("2.png", b"again"),
        ("2.depth.npy", b"d"),
        ("3.txt", b"orphan"),
        ("4.heic", b"h"),
        ("5.input.png", b"i"),
        ("5.outputs.txt", b"a cat"),
        ("5.json", b"{}"),
    )
    made = list(samples(io.BytesIO(content), len(content)))
    assert [s.image and s.image.name for s in made] == ["1.png", "2.png", "2.png", None, None, "5.input.png"]
    assert [s.label and s.label.name for s in made] == ["1.cls", "2.cls", None, None, None, None]
    assert [m.name for s in made for m in s.unused] == ["2.depth.npy", "3.txt"]
    assert [m.name for s in made for m in s.unread] == ["4.heic"]
    assert made[5].captions[0].name == "5.outputs.txt"
    assert made[5].table is not None


def test_side_cars_may_have_the_ending_of_the_image_before_theirs_as_in_folders():
    content = tar_of(
        *((f"0.{ending}", b"x") for ending in ("png", "png.json", "png.txt", "png.cls", "info.json")),
        *((f"1.{ending}", b"x") for ending in ("png", "info.json")),
        *((f"2.{ending}", b"x") for ending in ("png", "a.json", "b.json")),
    )
    first, second, third = samples(io.BytesIO(content), len(content))
    assert [m and m.name for m in (first.table, first.label, *first.captions)] == [
        "0.png.json",
        "0.png.cls",
        "0.png.txt",
    ]
    assert [m.name for m in first.unused] == ["0.info.json"]
    assert second.table is not None
    assert second.table.name == "1.info.json"  # the one there is
    assert third.table is None
    assert len(third.unused) == 2


def test_endings_img_and_cap_are_an_image_and_its_text():
    content = tar_of(("0.img", b"a"), ("0.cap", b"words"), ("1.image", b"b"), ("2.png.data", b"c"))
    made = list(samples(io.BytesIO(content), len(content)))
    assert [s.image and s.image.name for s in made] == ["0.img", "1.image", None]
    assert made[0].captions
