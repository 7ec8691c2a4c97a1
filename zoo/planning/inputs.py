"""The inputs of a run: the backbone at the requested image size, the data, the weights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from zoo import weights as zoo_weights
from zoo.backbone import Backbone, Preprocess
from zoo.data.check import (
    Examined,
    by_content,
    examine_samples,
    examined_store,
    remember,
    sizes_of,
    warn_of,
)
from zoo.data.columns import group_counts, has_groups
from zoo.data.decoded import content_keys
from zoo.data.files import waiting_for_fresh_files
from zoo.data.issue import Issue, because, describe, refuse
from zoo.data.sample import Sample
from zoo.data.scan import Mode, Scan, Verdict, decode_all, partial_scan, readable_images
from zoo.data.sources import Source, is_remote, source_of, unlabelled_images
from zoo.data.split import Splits, read_splits
from zoo.data.value_range import common_range
from zoo.errors import DataError, RecipeError, SizeError, WeightsUnavailableError
from zoo.events import Listener, Note
from zoo.io.files import expand
from zoo.io.text import count
from zoo.machine.processes import is_main, rank_and_count
from zoo.models.size import needs_resizing
from zoo.models.variant import variant
from zoo.planning.config import Resolver
from zoo.recipe import Recipe

#: Images that are examined at a time.
_BATCH = 1024


def as_asked(backbone: Backbone, recipe: Recipe, listen: Listener) -> tuple[Backbone, Preprocess]:
    """Return the backbone built for the recipe's image size and options, and its preprocessing.

    Raises:
        SizeError: The backbone can't be built for that size.
        OptionError: It can't be built with those options.
        RecipeError: The recipe's augmentation can't be used with that many channels.
    """
    size = recipe.image_size
    old = "{} x {}".format(*backbone.preprocess.height_width)
    rebuilt = needs_resizing(backbone, size)
    try:
        backbone = variant(backbone, size=size, options=recipe.backbone_options)
    except SizeError as error:
        raise SizeError(error.text, hint="try another `image_size`, or leave it out") from error
    own = backbone.preprocess
    if own.channels == 4 and recipe.augment not in ("none", "light"):
        raise RecipeError(
            f"`augment` = {recipe.augment} changes colours, which a fourth band does not have",
            hint="use light",
        )
    if not rebuilt:
        return backbone, own if size is None else replace(own, size=size)
    text = f"{backbone.name} is built for {size} x {size} pixels instead of {old}"
    if recipe.weights != "none":
        text += "; pretrained position embeddings are resampled"
    listen(Note(text=text))
    return backbone, own


def read_data(
    recipe: Recipe, listen: Listener, *, channels: int = 3, with_test: bool = True
) -> Splits:
    """Read and split the recipe's images; without `data`, the demo's.

    With several processes, what it learns of each file is cached for the others.

    Args:
        recipe: Says where the images are, and how to split them.
        listen: Called with a `Note` on each problem of the data.
        channels: Number of channels that the network takes.
        with_test: Whether to read the test images, if there are any.

    Raises:
        DataError: The folder does not exist, or has no images or too few classes; or there are no
            unlabelled images where the recipe says.
    """
    if recipe.data is not None:
        listen(Note(text=f"reading the images of {recipe.data}"))
    with nullcontext() if recipe.scan == "full" else waiting_for_fresh_files():
        return _read(recipe, listen, channels, with_test=with_test)


def mode_of(recipe: Recipe, source: Source) -> Mode:
    """Return which images are read before training; of remote ones some, unless `scan` is set."""
    return "sample" if is_remote(source) and "scan" not in recipe.model_fields_set else recipe.scan


def _read(recipe: Recipe, listen: Listener, channels: int, *, with_test: bool) -> Splits:
    source = source_of(recipe)
    mode = mode_of(recipe, source)
    if "val" in source.splits and recipe.val_split != Recipe.model_fields["val_split"].default:
        text = f"val_split = {recipe.val_split:g} has no effect: the data has val images"
        listen(Note(text=text, warning=True))
    examined: list[Examined] = []
    with examined_store() as known:

        def scan(samples: Sequence[Sample]) -> Iterator[Verdict]:
            remembered = known if recipe.cache_size else None
            for start in range(0, len(samples), _BATCH):
                found = examine_samples([*samples[start : start + _BATCH]], remembered)
                if remembered is not None and rank_and_count()[1] > 1:
                    remember(remembered, found)
                # The main process compares and stores them; others need the range of values.
                examined.extend(each for each in found if is_main() or each.extremes)
                yield from (each.verdict(channels) for each in found)

        demo = partial(decode_all, channels=channels)
        splits = read_splits(
            source,
            val_split=recipe.val_split,
            seed=recipe.seed,
            fold=recipe.held_out_fold,
            with_test=with_test,
            strict=recipe.strict,
            scan=partial_scan(mode, demo if recipe.data is None else scan),
        )
        if recipe.unlabelled is not None:
            if mode != "full":
                raise RecipeError(
                    f"`unlabelled` needs `scan` = full, and it is {mode}: images that val or test "
                    f"have are left out by their content",
                    hint="set `scan` to full",
                )
            splits = _with_unlabelled(splits, recipe.unlabelled, scan, strict=recipe.strict)
    results = by_content(examined)
    # The main process speaks for all, and comparing all images takes a while.
    warned = warn_of(splits, results, channels=channels) if results and is_main() else []
    advice = []
    if warned:
        same = "" if recipe.group_by is None else " (with the same `group_by`)"
        advice = [f"zoo data check {source.name}{same} shows all and what to do"]
    for text in (*describe(splits.issues), *warned, *advice):
        listen(Note(text=text, warning=True))
    # A fold holds out few images, but its figures are pooled with those of the others.
    sizes = sizes_of(splits) if recipe.held_out_fold is None else []
    for text in sizes:
        listen(Note(text=text))
    if recipe.unlabelled is not None:
        unlabelled = f"{count(len(splits.unlabelled), 'image')} without labels"
        listen(Note(text=f"{unlabelled} from {recipe.unlabelled}, for the teacher alone"))
    _note_groups(splits, listen)
    # Samples need not be made of columns without such images.
    deep = {key: each for key, each in results.items() if each.extremes}
    keys = [s.content.key for s in (splits.train if deep else ()) if s.content is not None]
    of_train = [deep[key] for key in keys if key in deep]
    value_range = common_range(of_train)
    if value_range is not None:
        low, high = value_range
        depths = ", ".join(sorted({each.mode for each in of_train if each.extremes}))
        listen(
            Note(text=f"images of more than 8 bits ({depths}): {low:g} to {high:g} become 0 to 255")
        )
    return replace(
        splits,
        findings=(*warned, *sizes),
        examined=tuple(examined),
        value_range=value_range,
        scan=mode,
    )


def _with_unlabelled(splits: Splits, place: str, scan: Scan, *, strict: bool) -> Splits:
    """Add the unlabelled images of a place; those that a split has are left out.

    Otherwise val and test images would be learnt from, if only by what the teacher says of them.

    Raises:
        DataError: It can't be read, none of its images is left, or (strict) one can't be read.
    """
    samples, issues = readable_images(unlabelled_images(place), scan)
    if strict:
        refuse(issues)
    known = {
        key: split
        for split, images in (("train", splits.train), ("val", splits.val), ("test", splits.test))
        for key in content_keys(images)
    }
    found: dict[bytes, Sample] = {}
    in_split: Counter[str] = Counter()
    for sample, key in zip(samples, content_keys(samples), strict=True):
        if key in known:
            in_split[known[key]] += 1
        else:
            found.setdefault(key, sample)
    twice = len(samples) - len(found) - in_split.total()
    left_out = [f"{count(n, 'image')} that {split} has" for split, n in in_split.items()]
    left_out += [f"{count(twice, 'image')} that it has twice"] if twice else []
    if left_out:
        reason = f"left out of the unlabelled images: {', '.join(left_out)}"
        issues.append(Issue(kind="note", name=place, reason=reason))
    if not found:
        raise DataError(
            f"no unlabelled images in {place}{because(issues)}",
            hint="leave `unlabelled` out, or give other images",
        )
    return replace(
        splits,
        unlabelled=tuple(found.values()),
        issues=tuple(dict.fromkeys((*splits.issues, *issues))),
    )


def _note_groups(splits: Splits, listen: Listener) -> None:
    if not any(map(has_groups, (splits.train, splits.val))):
        return
    counts = group_counts(splits.train) + group_counts(splits.val)
    alone = counts.pop(None, 0)
    groups = len(counts) + alone
    sizes = [*counts.values(), *([1] if alone else [])]
    if max(sizes) == 1:
        listen(Note(text="groups have no effect: each is of one image", warning=True))
        return
    size = " to ".join(f"{size:,}" for size in sorted({min(sizes), max(sizes)}))
    listen(Note(text=f"{count(groups, 'group')} of {size} images, which are not split"))


def load_weights(
    resolver: Resolver, backbone: Backbone, listen: Listener
) -> zoo_weights.LoadedWeights:
    """Load the initial weights; the demo falls back to random ones if they are unavailable.

    Raises:
        WeightsError: The weights are unavailable (except in the demo), or do not fit.
    """
    source_suffix, recipe = "", resolver.recipe
    try:
        loaded = zoo_weights.load(backbone, recipe.weights)
    except WeightsUnavailableError as error:
        if recipe.data is not None:
            raise
        listen(
            Note(
                text=f"RANDOM WEIGHTS: {error}\n"
                f"The demo starts from RANDOM weights instead, so it shows that everything runs, "
                f"not what fine-tuning can do.",
                warning=True,
            )
        )
        resolver.replace("pretrained weights are unavailable", weights="none")
        loaded = zoo_weights.load(backbone, "none")
        source_suffix = " (pretrained weights are unavailable)"
    for note in loaded.notes:
        listen(Note(text=note, warning=True))
    if recipe.weights not in ("pretrained", "none"):
        resolver.spell_out(weights=os.path.realpath(expand(recipe.weights)))
    return replace(loaded, source=loaded.source + source_suffix)
