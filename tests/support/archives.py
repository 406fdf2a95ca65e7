"""Small copies of official archives, made of real photographs, in every layout."""

import json

import numpy as np
from PIL import Image
from scipy.io import savemat

CLASSES = ("beach", "harbor", "river")
NUMBER = 8  # photographs a class, of which those from here on are the test part where a layout says
TEST = 6
COUNTS = {"classes": len(CLASSES), "train": TEST * len(CLASSES), "test": (NUMBER - TEST) * len(CLASSES), "found": None}


def put(photos, root, name):
    """Write every photograph under the name that a layout has for it; the names."""
    names = {key: name(*key) for key in photos}
    for key, path in names.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(photos[key])
    return names


def text(root, file, lines):
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text("".join(f"{line}\n" for line in lines))


def lists(root, names, train, test, under):
    """Write the names of the photographs of either part, from a folder on, into a file a part."""
    lines = {key: name.removeprefix(under) for key, name in names.items()}
    text(root, train, [line for (_, i), line in lines.items() if i < TEST])
    text(root, test, [line for (_, i), line in lines.items() if i >= TEST])


def number(c, i):
    return 1000 + 100 * CLASSES.index(c) + i


def aircraft(root, photos):
    put(photos, root, lambda c, i: f"fgvc-aircraft-2013b/data/images/{number(c, i):07}.jpg")
    data = root / "fgvc-aircraft-2013b/data"
    text(data, "variants.txt", [f"DH {c} 2" for c in CLASSES])
    for part, chosen in (("trainval", lambda i: i < TEST), ("test", lambda i: i >= TEST)):
        lines = [f"{number(c, i):07} DH {c} 2" for c, i in photos if chosen(i)]
        text(data, f"images_variant_{part}.txt", lines)
    return "DH {} 2"


def birds(root, photos):
    root = root / "CUB_200_2011"
    folder = {c: f"{k + 1:03}.{c}" for k, c in enumerate(CLASSES)}
    names = put(photos, root, lambda c, i: f"images/{folder[c]}/{c}_{i:04}.jpg")
    text(root, "classes.txt", [f"{k + 1} {folder[c]}" for k, c in enumerate(CLASSES)])
    text(root, "images.txt", [f"{n + 1} {names[key].removeprefix('images/')}" for n, key in enumerate(photos)])
    text(root, "image_class_labels.txt", [f"{n + 1} {CLASSES.index(c) + 1}" for n, (c, _) in enumerate(photos)])
    text(root, "train_test_split.txt", [f"{n + 1} {int(i < TEST)}" for n, (_, i) in enumerate(photos)])
    return "{}"


def dogs(root, photos):
    folder = {c: f"n0208{k}-{c}" for k, c in enumerate(CLASSES)}
    names = put(photos, root, lambda c, i: f"Images/{folder[c]}/n0208_{i}.jpg")
    for part, chosen in (("train", lambda i: i < TEST), ("test", lambda i: i >= TEST)):
        files = [names[c, i].removeprefix("Images/") for c, i in photos if chosen(i)]
        savemat(root / f"{part}_list.mat", {"file_list": np.array(files, object)[:, None]})
    return "{}"


def cars(root, photos):
    names = put(photos, root, lambda c, i: f"cars_{'train' if i < TEST else 'test'}/{number(c, i):05}.jpg")
    (root / "devkit").mkdir()
    savemat(root / "devkit/cars_meta.mat", {"class_names": np.array([f"{c} 2012" for c in CLASSES], object)})
    kind = [("bbox_x1", object), ("class", object), ("fname", object)]
    for file, chosen in (
        ("devkit/cars_train_annos.mat", lambda i: i < TEST),
        ("cars_test_annos_withlabels.mat", lambda i: i >= TEST),
    ):
        rows = [(1, CLASSES.index(c) + 1, names[c, i].split("/")[1]) for c, i in photos if chosen(i)]
        savemat(root / file, {"annotations": np.array(rows, kind)[None]})
    return "{} 2012"


def indoor67(root, photos):
    names = put(photos, root, lambda c, i: f"Images/{c}/{c}_{i}_altavista.jpg")
    lists(root, names, "TrainImages.txt", "TestImages.txt", under="Images/")
    return "{}"


def logo2k(root, photos):
    names = put(photos, root, lambda c, i: f"Logo-2K+/Food/{c}/{i}.jpg")
    lists(root, names, "List/train_images_root.txt", "List/test_images_root.txt", under="Logo-2K+/")
    return "Food/{}"


def inat2019(root, photos):
    names = put(photos, root, lambda c, i: f"train_val2019/Birds/{CLASSES.index(c) + 40}/{i}.jpg")
    categories = [{"id": k + 40, "name": f"obscure {c}"} for k, c in enumerate(CLASSES)]
    for part, chosen in (("train", lambda i: i < TEST), ("val", lambda i: i >= TEST)):
        images = [{"id": number(*key), "file_name": names[key]} for key in photos if chosen(key[1])]
        notes = [
            {"id": n, "image_id": number(*key), "category_id": CLASSES.index(key[0]) + 40}
            for n, key in enumerate(photos)
            if chosen(key[1])
        ]
        content = {"images": images, "annotations": notes[::-1], "categories": categories}
        (root / f"{part}2019.json").write_text(json.dumps(content))
    return "obscure {}"


def cucumber(root, photos):
    put(photos, root, lambda c, i: f"{'train' if i < TEST else 'test'}/{c}/{i}.jpg")
    (root / "train" / CLASSES[0] / "Thumbs.db").write_text("no image")
    return "{}"


def caltech(root, photos):
    put(photos, root, lambda c, i: f"256_ObjectCategories/{CLASSES.index(c) + 1:03}.{c}/{number(c, i)}.jpg")
    clutter = root / "256_ObjectCategories/257.clutter"
    clutter.mkdir()
    (clutter / "257_0001.jpg").write_bytes(photos[CLASSES[0], 0])
    return "{}"


def magnetic_tile(root, photos):
    put(photos, root, lambda c, i: f"MT_{c}/Imgs/exp1_num_{i}.jpg")
    Image.new("L", (4, 4)).save(root / "MT_harbor/Imgs/exp1_num_0.png")  # a mask
    return "{}"


def resisc45(root, photos):
    put(photos, root, lambda c, i: f"NWPU-RESISC45/{c}/{c}_{i:03}.jpg")
    return "{}"


def flood(root, photos):
    put(photos, root, lambda c, i: f"imgs_small/{number(c, i)}.jpg")
    text(root, "relevance/depth.txt", [number(c, i) for c, i in photos if c == CLASSES[2]])
    return None
