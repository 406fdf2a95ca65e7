"""The papers' data sets by name, with the counts and the splits that the papers state."""

from dataclasses import dataclass
from functools import partial

from linft.data.catalogue import layouts
from linft.data.catalogue.layouts import Layout, drawn, first, stratified

LI = "Li and others 2020, Table 1"
LI_SUBSETS = "Li and others 2020, Table 7"
PLESTED = "Plested and others 2021, section 3.1"
DESHPANDE = "Deshpande and others 2021, Table 4"
SUBSETS = "Yosinski and others list the classes; Table 7 swaps the two subsets' numbers of classes against the text"
FOLDERS = "train/CLASS and test/CLASS folders, made by hand"


@dataclass(frozen=True)
class Tfds:
    """A data set of TensorFlow Datasets, and its splits that train and test."""

    name: str
    train: str = "train"
    test: str = "test"


@dataclass(frozen=True)
class DataSet:
    """One data set under one split: what the papers state, and where it comes from."""

    name: str
    title: str
    papers: tuple[str, ...]
    classes: int
    train: int | None
    """Training images that the paper states; None where it does not."""
    test: int | None
    split: str
    """The rule in words."""
    citation: str
    tfds: Tfds | None = None
    layout: Layout | None = None
    """Reads what the archives unpack to; preferred to TFDS where there is both."""
    archives: tuple[str, ...] = ()
    """Files of the official distribution, to be unpacked into one folder."""
    folder: str = ""
    """The folder that they make there, if it is only one."""
    found: tuple[int, int] | None = None
    """Training and test images that the rule finds in the source, where they are not those stated."""
    note: str = ""

    @property
    def expected(self) -> dict[str, int | None]:
        """Images of each part that a complete copy has."""
        train, test = self.found or (self.train, self.test)
        return {"train": train, "test": test}


_CALTECH = partial(layouts.pooled, pattern="*/*.jpg", without="257.clutter", drop=r"\d+\.")

_ROWS = (
    DataSet(
        "flowers", "Oxford Flowers 102", (LI, DESHPANDE), 102, 2040, 6149,
        "official train and validation; official test", "Nilsback and Zisserman 2008",
        Tfds("oxford_flowers102", "train+validation"),
    ),
    DataSet(
        "birds", "Caltech-UCSD Birds 200-2011", (LI, DESHPANDE), 200, 5994, 5794,
        "official", "Wah and others 2011", Tfds("caltech_birds2011"),
        layouts.birds, ("CUB_200_2011.tgz",), "CUB_200_2011",
        note="Deshpande and others state 5,793 test images and cite the edition of 2010",
    ),
    DataSet(
        "aircraft", "FGVC-Aircraft, by variant", (LI, PLESTED), 100, 6667, 3333,
        "official train and validation; official test", "Maji and others 2013",
        layout=layouts.aircraft, archives=("fgvc-aircraft-2013b.tar.gz",), folder="fgvc-aircraft-2013b",
    ),
    DataSet(
        "cars", "Stanford Cars", (LI, PLESTED, DESHPANDE), 196, 8144, 8041,
        "official", "Krause and others 2013", Tfds("cars196"), layouts.cars,
        ("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz", "cars_test_annos_withlabels.mat"),
        note="TFDS can no longer download it",
    ),
    DataSet(
        "dogs", "Stanford Dogs", (LI,), 120, 12000, 8580,
        "official", "Khosla and others 2011", Tfds("stanford_dogs"), layouts.dogs, ("images.tar", "lists.tar"),
    ),
    DataSet(
        "indoor67", "MIT Indoor 67", (LI,), 67, 5360, 1340,
        "official", "Quattoni and Torralba 2009",
        layout=partial(layouts.listed, images="Images", train="TrainImages.txt", test="TestImages.txt"),
        archives=("indoorCVPR_09.tar", "TrainImages.txt", "TestImages.txt"),
    ),
    DataSet(
        "caltech256-60", "Caltech-256, 60 images a class", (LI,), 256, 15360, 15189,
        "60 images a class, drawn with seed 0; all others; no clutter", "Griffin and others 2007",
        layout=partial(_CALTECH, split=partial(drawn, train=60)),
        archives=("256_ObjectCategories.tar",), folder="256_ObjectCategories", found=(15360, 14420),
        note="without the clutter class the archive has 29,780 images, which leaves fewer to test than stated",
    ),
    DataSet(
        "caltech256-30", "Caltech-256, 30 images a class", (PLESTED,), 256, None, None,
        "first 30 images a class; all after the next 20, which validate; no clutter", "Griffin and others 2007",
        layout=partial(_CALTECH, split=partial(first, train=30, validation=20)),
        archives=("256_ObjectCategories.tar",), folder="256_ObjectCategories", found=(7680, 16980),
        note="data:caltech256-30@validation tests on the validation part",
    ),
    DataSet(
        "inat2017", "iNaturalist 2017", (LI,), 5089, 665571, 9599,
        "official train and 90 % of validation; 10 % of validation, as TFDS shuffled it", "Van Horn and others 2018",
        Tfds("i_naturalist2017", "train+validation[:90%]", "validation[90%:]"),
    ),
    DataSet(
        "places365", "Places365-Standard", (LI, DESHPANDE), 365, 1803460, 36500,
        "official train; official validation", "Zhou and others 2018", Tfds("places365_small", test="validation"),
    ),
    DataSet(
        "imagenet", "ImageNet, ILSVRC 2012", (LI, DESHPANDE), 1000, 1281167, 50000,
        "official train; official validation", "Deng and others 2009", Tfds("imagenet2012", test="validation"),
        note="TFDS takes the two official archives from its manual_dir",
    ),
    DataSet(
        "imagenet-natural", "ImageNet, natural things", (LI_SUBSETS,), 449, None, None,
        FOLDERS, "Yosinski and others 2014", layout=layouts.train_and_test,
        note=SUBSETS,
    ),
    DataSet(
        "imagenet-manmade", "ImageNet, man-made things", (LI_SUBSETS,), 551, None, None,
        FOLDERS, "Yosinski and others 2014", layout=layouts.train_and_test,
        note=SUBSETS,
    ),
    DataSet(
        "dtd", "Describable Textures", (PLESTED,), 47, 3760, None,
        "official train and validation; official test; split 1", "Cimpoi and others 2014",
        Tfds("dtd", "train+validation"), found=(3760, 1880),
    ),
    DataSet(
        "dtd-75", "Describable Textures, 75 to 25", (DESHPANDE,), 47, 4230, 1410,
        "the first 75 % of each official part; the rest, as TFDS shuffled them", "Cimpoi and others 2014",
        Tfds("dtd", "train[:75%]+validation[:75%]+test[:75%]", "train[75%:]+validation[75%:]+test[75%:]"),
    ),
    DataSet(
        "resisc45", "NWPU-RESISC45", (DESHPANDE,), 45, 25200, 6300,
        "80 %; 20 %, drawn with seed 0", "Cheng and others 2017",
        layout=partial(layouts.pooled, pattern="*/*.jpg", split=partial(stratified, test=0.2)),
        archives=("NWPU-RESISC45.rar",), folder="NWPU-RESISC45",
    ),
    DataSet(
        "food101", "Food-101", (DESHPANDE,), 101, 75750, 25250,
        "official train; official test, which TFDS calls validation", "Bossard and others 2014",
        Tfds("food101", test="validation"),
    ),
    DataSet(
        "logo2k", "Logo-2K+", (DESHPANDE,), 2341, 134907, 32233,
        "official", "Wang and others 2020",
        layout=partial(
            layouts.listed,
            images="Logo-2K+", train="List/train_images_root.txt", test="List/test_images_root.txt",
        ),
        archives=("Logo-2K+.rar", "List.zip"),
    ),
    DataSet(
        "landmarks", "Google Landmarks v2, 256 classes", (DESHPANDE,), 256, 200000, 15601,
        FOLDERS, "Noh and others 2017", layout=layouts.train_and_test,
        note="the paper does not say which classes and images it took",
    ),
    DataSet(
        "inat2019", "iNaturalist 2019", (DESHPANDE,), 1010, 265213, 3030,
        "official train; official validation", "Van Horn and others 2018",
        layout=partial(layouts.coco, train="train2019.json", test="val2019.json"),
        archives=("train_val2019.tar.gz", "train2019.json.tar.gz", "val2019.json.tar.gz"),
    ),
    DataSet(
        "imaterialist", "iMaterialist Product 2019", (DESHPANDE,), 2019, 965782, 9639,
        FOLDERS, "Malong Technologies 2019", layout=layouts.train_and_test,
        note="official train and validation, whose images are given by addresses, not all of which still answer",
    ),
    DataSet(
        "magnetic-tile", "Magnetic tile defects", (DESHPANDE,), 6, 1008, 336,
        "75 %; 25 %, drawn with seed 0", "Huang and others 2018",
        layout=partial(
            layouts.pooled, pattern="MT_*/Imgs/*.jpg", split=partial(stratified, test=0.25), drop="MT_"
        ),
        archives=("Magnetic-tile-defect-datasets.-master.zip",), folder="Magnetic-tile-defect-datasets.-master",
    ),
    DataSet(
        "ucmerced", "UC Merced land use", (DESHPANDE,), 21, 1575, 525,
        "the first 75 %; the rest, as TFDS shuffled them", "Yang and Newsam 2010",
        Tfds("uc_merced", "train[:75%]", "train[75%:]"),
    ),
    DataSet(
        "cucumber", "CUCUMBER-9", (DESHPANDE,), 30, 2326, 597,
        FOLDERS, "workpiles, CUCUMBER-9", layout=layouts.train_and_test,
        note="the archive is a pickle of nine classes, which is not read; the paper does not say how it came to 30",
    ),
    DataSet(
        "flood", "European Flood 2013, depth", (DESHPANDE,), 2, 3153, 557,
        "85 %; 15 %, drawn with seed 0", "Barz and others 2018",
        layout=partial(
            layouts.relevance,
            images="imgs_small", relevant="relevance/depth.txt", split=partial(stratified, test=0.15),
        ),
        archives=("european-flood-2013_imgs_small.zip", "eu-flood-dataset-master.zip"),
        note="images in imgs_small/, beside relevance/ of the annotations",
    ),
    DataSet(
        "pets", "Oxford-IIIT Pets", (DESHPANDE,), 37, 3680, 3669,
        "official", "Parkhi and others 2012", Tfds("oxford_iiit_pet"),
    ),
    DataSet(
        "cassava", "iCassava 2019", (DESHPANDE,), 5, 5367, 280,
        "the first 95 % of official train; the rest, as TFDS shuffled them", "Mwebaze and others 2019",
        Tfds("cassava", "train[:95%]", "train[95%:]"), found=(5373, 283),
        note="official train has nine images more than the paper states in both parts",
    ),
    DataSet(
        "belga", "BelgaLogos", (DESHPANDE,), 27, 7500, 2500,
        FOLDERS, "Joly and Buisson 2009", layout=layouts.train_and_test,
        note="images have none, one or several of 26 logos; the paper does not say how each came to one of 27 classes",
    ),
)  # fmt: skip

CATALOGUE: dict[str, DataSet] = {row.name: row for row in _ROWS}
