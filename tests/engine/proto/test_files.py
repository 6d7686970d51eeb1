"""Messages in files: the lines of layers, and errors for files that are not what they should be."""

import pytest

from caffelite.errors import CaffeliteError, FileFormatError, PrototxtError
from caffelite.proto import message, parse_text, read_binary, read_net, read_solver, read_text, replacing, write_binary


@pytest.fixture
def file(tmp_path):
    def make(content):
        path = tmp_path / "net.prototxt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def test_lines_of_layers(file):
    net, lines = read_net(
        file('# layer { }\nname: "layer {"\nlayer { name: "a" }\n\nlayer\n{\nname: "b" } layer: [{ },\n { }]\n')
    )
    assert len(net.layer) == 4
    assert lines == [3, 5, 7, 7]


def test_an_input_layer_has_the_line_of_its_first_field(file):
    net, lines = read_net(file('name: "x"\ninput: "a"\ninput: "b"\nlayer { }\ninput_shape { }\ninput_shape { }'))
    assert [layer.type for layer in net.layer] == ["Input", ""]
    assert lines == [2, 4]


def test_merged_padding_layers_have_no_line(file):
    net, lines = read_net(
        file(
            'input: "d" input_dim: [1, 1, 5, 5]\n'
            'layers { layer { name: "p" type: "padding" pad: 1 } bottom: "d" top: "p" }\n'
            'layers { layer { name: "c" type: "conv" } bottom: "p" top: "c" }\n'
            'layers { layer { name: "r" type: "relu" } bottom: "c" top: "c" }\n'
        )
    )
    assert [layer.name for layer in net.layer] == ["input", "c", "r"]
    assert lines == [1, 3, 4]


def test_solver(file):
    path = file("solver_type: ADAM")
    solver = read_solver(path)
    assert solver.type == "Adam" and not solver.HasField("solver_type")
    assert solver.snapshot_prefix == str(path.with_suffix(""))


def test_bytes_that_are_no_utf8_may_stand_in_comments_only(file):
    assert read_text(file(b"# \xb2\xc4\nname: 'a'"), "NetParameter").name == "a"
    with pytest.raises(PrototxtError, match=r"net\.prototxt:2:7: .*not UTF-8"):
        read_text(file(b"\nname: '\xb2\xc4'"), "NetParameter")
    with pytest.raises(PrototxtError, match=r"net\.prototxt:2:1: byte 0xb2 is not UTF-8"):
        read_text(file(b"\n\xb2: 1"), "NetParameter")


def test_a_byte_order_mark_and_windows_line_ends(file):
    assert read_net(file(b"\xef\xbb\xbfname: 'a'\r\nlayer { }\r\n"))[1] == [2]


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "the file is empty"), (b" \n# nothing\n", "nothing but blanks"), (b"\x0a\x02\x00\x01", "a binary file")],
)
def test_no_text(file, content, expected):
    with pytest.raises(PrototxtError, match=expected):
        read_text(file(content), "NetParameter")


@pytest.mark.parametrize("read", [read_text, read_binary])
def test_missing_file_and_folder(read, tmp_path):
    for path, expected in ((tmp_path / "gone", "No such file"), (tmp_path, "directory")):
        with pytest.raises((PrototxtError, FileFormatError), match=expected) as caught:
            read(path, "NetParameter")
        assert str(path) in str(caught.value)


def test_where_a_path_starts_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        PrototxtError, match=rf"^a/b\.prototxt: cannot be .*; paths start at the current folder, {tmp_path}$"
    ):
        read_net("a/b.prototxt")
    with pytest.raises(PrototxtError, match=r"No such file or directory$"):
        read_net(tmp_path / "b.prototxt")


def test_binary_goes_round(tmp_path):
    net = parse_text('name: "x" layer { name: "y" }', "NetParameter")
    write_binary(tmp_path / "net.bin", net)
    assert read_binary(tmp_path / "net.bin", "NetParameter") == net


def test_text_given_as_binary(file):
    with pytest.raises(FileFormatError, match="no binary NetParameter"):
        read_binary(file('name: "x"'), "NetParameter")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "net.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_into_a_missing_folder(tmp_path):
    with pytest.raises(CaffeliteError, match=r"gone/net\.bin: cannot be written: No such file"):
        write_binary(tmp_path / "gone" / "net.bin", message("NetParameter")())
