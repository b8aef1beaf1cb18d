"""The label tables against cityscapesscripts' own."""

from cityscapesscripts.helpers.labels import id2label, trainId2label

from fastseg.labels import IGNORE, cityscapes, class_difference


def test_cityscapes_is_the_official_table() -> None:
    table = cityscapes()
    lookup = table.lookup()
    for value, label in id2label.items():
        if value >= 0:
            assert lookup[value] == (label.trainId if 0 <= label.trainId < 19 else IGNORE)
            assert value in table.train_ids
    assert [c.name for c in table.classes] == [trainId2label[i].name for i in range(19)]
    assert [c.category for c in table.classes] == [trainId2label[i].category for i in range(19)]
    assert 34 not in table.train_ids


def test_the_first_difference_of_two_tables_is_named() -> None:
    names = [c.name for c in cityscapes().classes]
    assert class_difference(names, [*names[:-1], "tram"]) == ("class 18", "'bicycle'", "'tram'")
    assert class_difference(names, names[:-1]) == ("number of classes", "19", "18")
    what, one, other = class_difference(names, list(names))
    assert one == other
    assert what == "class 18"
