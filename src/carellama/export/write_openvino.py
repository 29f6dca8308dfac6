"""A program by itself: a Hugging Face folder as OpenVINO's, by optimum-intel. It imports nothing of ours.

    python write_openvino.py < job.json          # {"folder": ..., "target": ...}; prints {"version": ...}

Weights stay as they are stored: nothing is rounded. OpenVINO GenAI finds its tokenizer beside the model.
"""

import json
import logging
import sys
import warnings

import openvino
from openvino_tokenizers import convert_tokenizer
from optimum.intel.openvino.modeling_decoder import OVModelForCausalLM
from transformers import AutoTokenizer


def main() -> None:
    """Write the folder; the last line of stdout is the answer."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    job = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    model = OVModelForCausalLM.from_pretrained(job["folder"], export=True, load_in_8bit=False, compile=False)
    model.save_pretrained(job["target"])
    tokenizer.save_pretrained(job["target"])
    pair = convert_tokenizer(tokenizer, with_detokenizer=True)
    for part, name in zip(pair, ("openvino_tokenizer", "openvino_detokenizer"), strict=True):
        openvino.save_model(part, f"{job['target']}/{name}.xml")
    print(json.dumps({"version": openvino.__version__}))


if __name__ == "__main__":
    main()
