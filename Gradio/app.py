"""`cd Gradio && python app.py`: the deployment page of 2023, on the model that `export_model.py` left in output_export.

Options of `carellama web` may follow.
"""

import sys
from pathlib import Path

from carellama.cli import call

if __name__ == "__main__":
    exported = Path(__file__).parent.parent / "output_export"
    call("web", ["--model_name_or_path", str(exported), *sys.argv[1:]])
