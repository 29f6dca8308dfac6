"""All layouts by name. One file a family; a dataset's quirks are handled where its layout is."""

from carellama.data.catalogue.layout import Layout
from carellama.data.catalogue.layouts import answers, dialogues, exams, plain, rankings

LAYOUTS: dict[str, Layout] = {
    **answers.LAYOUTS,
    **dialogues.LAYOUTS,
    **exams.LAYOUTS,
    **plain.LAYOUTS,
    **rankings.LAYOUTS,
}
