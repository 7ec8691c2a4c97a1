"""Inputs that are almost right: of a real file, bytes and values changed."""

from hypothesis import strategies as st

#: Values that somebody wrote in the place of others.
HOSTILE = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, -0.0, 0.5, 1e-320, 1e308),
        *(float("inf"), float("-inf"), float("nan")),
        *(
            "",
            " ",
            "0",
            "\0",
            "\x1b[2J",
            "\u202egnp",
            "=1+1",
            "~nobody/x",
            "/dev/zero",
            "/dev/stdin",
        ),
        *("../../../etc/passwd", "x" * 300, "x" * 5000, "none", "pretrained", "{0.__class__}"),
        *("%s%n", "torchvision/resnet18", "timm/*", "*", "["),
        *([], {}, [[]], [[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]], ["a", "a"], [1, 2, 3]),
        *([224, 224], [4097, 1], [0.5, 0.5, 0.5], {"a": {"b": "c"}}, {"__class__": "os.system"}),
    ]
)

#: Any value of JSON, small.
JSON = st.recursive(
    HOSTILE | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def mutated(draw: st.DrawFn, original: bytes) -> bytes:
    """The bytes with some flipped, cut out, doubled, put in, or all that follows cut off."""
    content = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["flip", "flip", "set", "cut", "double", "insert", "truncate"])):
            case "flip" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "set" if content:
                content[place] = draw(st.integers(0, 255))
            case "cut":
                del content[place : place + draw(st.integers(1, 64))]
            case "double":
                length = draw(st.integers(1, 64))
                content[place:place] = content[place : place + length]
            case "insert":
                content[place:place] = draw(st.binary(min_size=1, max_size=16))
            case "truncate":
                del content[place:]
            case _:
                pass
    return bytes(content)


@st.composite
def changed(draw: st.DrawFn, value: object) -> object:
    """The JSON value with one value in it, at any depth, replaced, left out or renamed."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        rest = {k: v for k, v in value.items() if k != key}
        match draw(st.integers(0, 7)):
            case 0:
                return rest
            case 1:
                return {**rest, draw(st.text(max_size=20)): value[key]}
            case _:
                return {**rest, key: draw(changed(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(changed(value[place])), *value[place + 1 :]]
    return draw(JSON)
