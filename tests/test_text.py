"""The text form: printing and parsing are inverse, and hostile text ends in a NetirError."""

import re
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from netir.dims import symbol
from netir.errors import NetirError
from netir.ir import Graph, Node, Param, Record, Ref, Step, TensorType
from netir.ops import OPS
from netir.text import parse_graph, print_graph
from tests.examples import EXAMPLES
from tests.operands import Example
from tests.zoo.traced import NAMES, traced

GOLDEN = sorted((Path(__file__).parent / "golden/text").glob("*.ir"))
TEXTS = [file.read_text() for file in GOLDEN]
X = TensorType(torch.float32, (2, 3))


def assert_equal(left: Graph, right: Graph) -> None:
    """Equal in everything but the numbers in the tensors."""
    assert left.name == right.name
    assert dict(left.inputs) == dict(right.inputs)
    assert list(left.nodes.values()) == list(right.nodes.values())
    assert left.output == right.output
    assert left.arguments == right.arguments
    assert dict(left.aliases) == dict(right.aliases)
    assert left.history == right.history
    assert list(left.params) == list(right.params)
    for name, param in left.params.items():
        other = right.params[name]
        assert (param.type, param.kind) == (other.type, other.kind)
        assert param.trainable == other.trainable


def small(op: str = "relu(%x)", *lines: str, kind: str = "f32[2, 3]") -> str:
    """A graph with one node, and more lines before it."""
    body = "".join(f"  {line}\n" for line in lines)
    return f"graph g(%x: f32[2, 3]) {{\n{body}  %y = {op} : {kind}\n  return %y\n}}\n"


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden(file: Path) -> None:
    graph = parse_graph(file.read_text())
    assert print_graph(graph) == file.read_text()
    assert str(graph) == file.read_text()
    assert_equal(parse_graph(print_graph(graph)), graph)


@pytest.mark.parametrize("name", NAMES)
def test_zoo(name: str) -> None:
    _, graph = traced(name)
    text = print_graph(graph)
    again = parse_graph(text, {n: p.data for n, p in graph.params.items()})
    assert print_graph(again) == text
    assert_equal(again, graph)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.op.name)
def test_every_op(example: Example) -> None:
    given = [(f"x{i}", o) for i, o in enumerate(example.operands)]
    types = {name: o.type for name, o in given if o is not None}
    found = example.op.infer(*example.types())
    if found is None:
        pytest.skip("torch alone knows its types")
    results = (found,) if isinstance(found, TensorType) else tuple(found)
    operands = tuple(None if o is None else name for name, o in given)
    nodes = {"y": Node("y", example.op, operands, results)}
    graph = Graph("g", types, nodes, {}, tuple(map(Ref, nodes["y"].results)),
                  {name: Ref(name) for name in types})  # fmt: skip
    text = print_graph(graph)
    assert_equal(parse_graph(text), graph)
    assert print_graph(parse_graph(text)) == text


def test_spaces_and_comments_do_not_matter() -> None:
    text = "graph g(%x:f32[2,3,]){# a comment\n%y=relu(%x,):f32[2,3]return%y}"
    assert print_graph(parse_graph(text)) == small()


def test_sizes_are_read_as_they_are_computed() -> None:
    n = symbol("n")
    kind = TensorType(torch.float32, (n * n + 2 * n, (n + 1) // 2, n % 7))
    graph = Graph("g", {"x": kind}, {}, {}, Ref("x"), {"x": Ref("x")})
    text = print_graph(graph)
    assert parse_graph(text).inputs == graph.inputs
    assert print_graph(parse_graph(text.replace("n*n + 2*n", "(n + 2) * n"))) == text


def test_floats_keep_their_value_and_their_type() -> None:
    for value in (0.1, 1e-300, 1.0, 1, True, -0.0, float("inf"), 12345678901234567890):
        op = OPS["mul"](other=value)
        graph = Graph("g", {"x": X}, {"y": Node("y", op, ("x",), (X,))}, {}, Ref("y"),
                      {"x": Ref("x")})  # fmt: skip
        read = parse_graph(print_graph(graph)).nodes["y"].op
        assert repr(read) == repr(op)


def test_parameters_are_zero_without_tensors() -> None:
    graph = parse_graph(TEXTS[0])
    assert not graph.params["embed.weight"].data.any()
    huge = small("relu(%x)", "param @w: f32[1000000, 1000000]")
    assert parse_graph(huge).params["w"].data.untyped_storage().nbytes() == 4


def test_a_record_is_read_without_its_class() -> None:
    tree = parse_graph(TEXTS[0]).output
    assert isinstance(tree, Record)
    assert (tree.type_name, tree.make) == ("zoo.Out", None)


def test_history_is_kept_and_moves_are_not() -> None:
    graph = parse_graph(TEXTS[0])
    assert graph.history[1] == Step('prune("*", amount=0.3)', "masked")
    assert graph.history[1].moves is None


ERRORS = {
    "": ("expected 'graph', found the end of the text", "1, column 1", "write 'graph'"),
    "graph g(%x: f32[2]) {": ("expected a line, found the end of the text", "1, column 22", ""),
    small("rellu(%x)"): ("there is no op 'rellu'", "2, column 8", "did you mean 'relu'?"),
    small("relu(%z)"): ("nothing before makes the value 'z'", "2, column 13", "known: x"),
    small("relu(%y)"): ("nothing before makes the value 'y'", "2, column 13", ""),
    small("relu(@w)"): ("there is no parameter 'w'", "2, column 13", "there is none"),
    small("relu(x)"): ("expected an operand", "2, column 13", ""),
    small("relu(%x, %x)"): ("relu takes 1 operand, 2 are given", "2, column 8", ""),
    small("linear(%x)"): ("linear takes 2 to 3 operands, 1 is given", "2, column 8", ""),
    small("relu(_)"): ("relu needs operand 0, which is left out", "2, column 8", ""),
    small("relu(%x)", kind="f32[2, 4]"): (
        "relu gives f32[2, 3], but the text says f32[2, 4]", "2, column 8", "correct the types",
    ),
    small("relu(%x)", kind="f64[2, 3]"): ("relu gives f32[2, 3]", "2, column 8", ""),
    small("relu(%x)", kind="float[2]"): ("there is no element type 'float'", "2, column 19", ""),
    small("relu(%x)", kind="f32[-2]"): ("no axis has size -2", "2, column 23", ""),
    small("relu(%x)", kind="f32[2.5]"): ("a number is no size", "2, column 23", ""),
    small("relu(%x)", kind='f32["n"]'): ("a string is no size", "2, column 23", ""),
    small("relu(%x)", kind="f32[n//0]"): ("a size is divided by zero", "2, column 24", ""),
    small("relu(%x) {slope=1}"): ("relu has no attribute 'slope'", "2, column 18", "none"),
    small("elu(%x) {alhpa=1.0}"): ("elu has no attribute 'alhpa'", "2", "did you mean 'alpha'?"),
    small('elu(%x) {alpha="big"}'): ("attribute 'alpha' of elu is a", "2, column 23", ""),
    small("elu(%x) {alpha=1, alpha=2}"): ("attribute 'alpha' is given twice", "2, column 26", ""),
    small("squeeze(%x) {dims=(9,)}"): ("squeeze names axis 9 of tensors of 2", "2, column 8", ""),
    small("softmax(%x) {dim=-3}"): ("softmax names axis -3 of tensors of 2 dim", "2, column 8", ""),
    small("softmax(%x) {dim=n}"): ("softmax names axis n of tensors of 2 dim", "2, column 8", ""),
    small("cat() {dim=0}"): ("cat cannot have these operands", "2, column 8", ""),
    "graph g(%x: f32[99999999999]) { %y = unbind(%x) : f32[] return %y }": (
        "too many indices", "1, column 38", "",
    ),
    small("reshape(%x) {shape=(7,)}", kind="f32[7]"): ("f32[2, 3] has not", "2, column 8", ""),
    small("relu(%x)", "%y = relu(%x) : f32[2, 3]"): ("there is a node or an input '%y'", "3", ""),
    small("relu(%x)", "%x = relu(%x) : f32[2, 3]"): ("there is a node or an input '%x'", "2", ""),
    small("relu(%x)", "param @w: f32[2]", "buffer @w: f32[2]"): ("a parameter '@w' alr", "3", ""),
    small("relu(%x)", "param @w: f32[n]"): ("no tensor has type f32[n]", "2, column 9", ""),
    small("relu(%x)", "alias @v = @w"): ("there is no parameter 'w'", "2, column 14", ""),
    small("relu(%x)", 'step "a" keeps'): ("expected a contract", "3", ""),
    small("relu(%x)", 'step "a keeps exact'): ("a string is not closed", "2, column 8", "end it"),
    small("relu(%x)", 'step "\\q" keeps exact'): ("wrong escape", "2, column 8", ""),
    small("relu(%x)", 'param @"": f32[2]'): ("'' cannot be a name", "2, column 9", ""),
    small("relu(%x)", "return ="): ("expected a value", "2, column 10", ""),
    small("relu(%x)") + "more": ("expected the end of the text, found 'more'", "5, column 1", ""),
    small("add(%x) {other=" + "(" * 500 + "1"): ("nested too deeply", "2", "at most 32"),
    small("add(%x) {other=" + "-" * 500 + "1"): ("nested too deeply", "2", ""),
    small("add(%x) {other=" + "9" * 500): ("a whole number is too large", "2, column 23", ""),
    small("add(%x) {other=" + "*".join(["(a+b+c)"] * 40)): ("this size is too long", "2", ""),
    small("add(%x) {other=1 + None}"): ("'+' stands between sizes only", "2, column 25", ""),
    small("add(%x) {other=%x}"): ("expected a value", "2, column 23", ""),
    "graph g(%x: f32[2], y=f32) {}": ("a size or element type cannot stand", "1, column 23", ""),
    "graph g(%x: f32[2], %x) {}": ("argument 'x' is given twice", "1, column 21", ""),
    'graph g(a={"k": 1, "k": 2}) {}': ("'k' is given twice", "1, column 20", "keep one"),
    "graph g(%x) {}": ("expected ':' after an input", "1, column 11", ""),
    "graph g() { return ~ }": ("unexpected character '~'", "1, column 20", ""),
}  # fmt: skip


@pytest.mark.parametrize("text", ERRORS, ids=range(len(ERRORS)))
def test_errors_say_what_where_and_what_to_do(text: str) -> None:
    what, where, fix = ERRORS[text]
    with pytest.raises(NetirError) as caught:
        parse_graph(text)
    assert what in caught.value.what
    assert f"line {where}" in caught.value.where
    assert fix in caught.value.fix
    assert max(map(len, str(caught.value).splitlines())) < 400


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({}, "there is no tensor for '@w'"),
        ({"w": torch.zeros(3)}, "the tensor for '@w' is f32[3]"),
        ({"w": torch.zeros(2).double()}, "the tensor for '@w' is f64[2]"),
        ({"w": torch.zeros(2), "v": torch.zeros(2)}, "there is a tensor 'v'"),
    ],
)
def test_tensors_must_be_those_of_the_text(tensors: dict[str, torch.Tensor], what: str) -> None:
    with pytest.raises(NetirError, match=re.escape(what)):
        parse_graph(small("relu(%x)", "param @w: f32[2]"), tensors)


def opaque(target: str, arguments: str = "($0,)") -> str:
    return small(f'opaque(%x) {{target="{target}", arguments={arguments}}}')


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (opaque("aten.from_file.default"), "takes a string that could name a file"),
        (opaque("aten.save.default"), "is no|has no operator|does not give tensors"),
        (opaque("aten.relu_.default"), "writes to its arguments"),
        (opaque("aten.add.out"), "writes to its arguments"),
        (opaque("aten.item.default"), "does not give tensors"),
        (opaque("aten.hann_window.default"), "takes no tensor"),
        (opaque("aten.nothing.default"), "torch has no operator"),
        (opaque("prims.abs.default"), "is not torch's own"),
        (opaque("load_library.x.y"), "is not torch's own"),
        (opaque("aten.relu"), "names no torch operator"),
        (opaque("aten.__class__.default"), "names no torch operator"),
        (opaque("aten.relu.__class__"), "names no torch operator"),
        (opaque(""), "names no torch operator"),
        (opaque("aten.relu.default", "()"), "do not use each of its 1 operands once"),
        (opaque("aten.relu.default", "($1,)"), "do not use each of its 1 operands once"),
        (opaque("aten.relu.default", "($0, $0)"), "do not use each of its 1 operands once"),
        (small('opaque(_) {target="aten.relu.default"}'), "leaves no operand out"),
    ],
)
def test_opaque_calls_can_only_compute(text: str, what: str) -> None:
    with pytest.raises(NetirError, match=what):
        parse_graph(text)


def test_operators_of_others_must_be_allowed() -> None:
    text = opaque("prims.abs.default")
    for allowed in ("prims.abs.default", "prims"):
        assert print_graph(parse_graph(text, allow_ops=[allowed])) == text
    with pytest.raises(NetirError, match="allow_ops="):
        parse_graph(text, allow_ops=["prims.abs"])


@pytest.mark.parametrize(
    ("graph", "what"),
    [
        (Graph("g", {"x": X}, {}, {}, Ref("x"), {}), "belongs to no argument"),
        (Graph("g", {}, {}, {}, None, {"x": Ref("x")}), "which is no input"),
        (
            Graph("g", {"x": X.with_shape((symbol("a b"),))}, {}, {}, None, {"x": Ref("x")}),
            "the size 'a b' has no text form",
        ),
        (
            Graph("g", {"x": X}, {"y": Node("y", OPS["mul"](other=torch.ones(1)), ("x",), (X,))},
                  {}, None, {"x": Ref("x")}),
            "a Tensor has no text form",
        ),
    ],
)  # fmt: skip
def test_what_has_no_text_form_is_refused(graph: Graph, what: str) -> None:
    with pytest.raises(NetirError, match=what):
        print_graph(graph)


def test_a_large_graph_is_read_in_seconds() -> None:
    conv, relu, kind = OPS["conv"](padding=(1, 1)), OPS["relu"](), TensorType(
        torch.float32, (symbol("batch"), 8, 16, 16)
    )
    nodes: dict[str, Node] = {}
    params: dict[str, Param] = {}
    last, weight = "x", torch.zeros(8, 8, 3, 3)
    for i in range(5000):
        params[f"layers.{i}.weight"] = Param(weight)
        operands = (last, f"@layers.{i}.weight")
        nodes[f"conv_{i}"] = Node(f"conv_{i}", conv, operands, (kind,), f"layers.{i}")
        last = f"relu_{i}"
        nodes[last] = Node(last, relu, (f"conv_{i}",), (kind,))
    graph = Graph("big", {"x": kind}, nodes, params, Ref(last), {"x": Ref("x")})
    text = print_graph(graph)
    start = time.perf_counter()
    again = parse_graph(text)
    assert time.perf_counter() - start < 10
    assert print_graph(again) == text


_TOKENS = re.compile(r'\s+|[A-Za-z_.0-9]+|"[^"]*"|.', re.DOTALL)
_FRAGMENTS = (
    "0", "-1", "2", "9223372036854775807", "99999999999999999999999", "1e400", "nan", "None",
    "True", "(", ")", "{", "}", "[", "]", "//", "*", "%", "-", "batch", "max(", '"x"', "$0", "$7",
    "@", "%x", "_", "f32", "()", "(1,)", "(0,)", "(-1, -1)", "3.5", '"', "\\u", "\x00", "é",
    "opaque", "1000000", "graph", "return", "#", "=", ":", "frozen",
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid text with a few tokens or bytes changed."""
    tokens = _TOKENS.findall(draw(st.sampled_from(TEXTS)))
    for _ in range(draw(st.integers(1, 3))):
        i, j = (draw(st.integers(0, len(tokens) - 1)) for _ in range(2))
        match draw(st.sampled_from(["delete", "copy", "swap", "put", "insert"])):
            case "delete":
                tokens[i] = ""
            case "copy":
                tokens[i] = tokens[j]
            case "swap":
                tokens[i], tokens[j] = tokens[j], tokens[i]
            case "put":
                tokens[i] = draw(st.sampled_from(_FRAGMENTS))
            case "insert":
                tokens.insert(i, tokens[j])
    text = "".join(tokens)
    if draw(st.booleans()):
        i = draw(st.integers(0, len(text)))
        text = text[:i] + draw(st.text(max_size=2)) + text[i + draw(st.integers(0, 1)) :]
    return text


@given(mutated())
def test_mutated_text_is_a_graph_or_an_error(text: str) -> None:
    try:
        graph = parse_graph(text)
    except NetirError:
        return
    printed = print_graph(graph)
    assert print_graph(parse_graph(printed)) == printed


@given(st.text(max_size=60))
def test_any_text_is_a_graph_or_an_error(text: str) -> None:
    for start in ("", "graph g(", "graph g(%x: f32[", "graph g() { return "):
        with pytest.raises(NetirError):
            parse_graph(f"{start}{text}\x00")
