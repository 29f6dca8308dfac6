"""A reward model's tokenizer and chat template, so that every reader scores the token that it was trained at.

    prepare_scoring(network, tokenizer, template)

`--stage rm` learns the score at the last token of the text, which ends where the answer ends. transformers scores the
last token that is not the pad token, and vLLM the last token of the prompt. So the pad token must differ from the token
that ends an answer, and the chat template must end there as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from carellama.model.readers import find_pad_token
from carellama.model.vocabulary import grow
from carellama.records import Message
from carellama.templates.template import Template

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NEW_PAD = "<pad>"


def prepare_scoring(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    """Give a reward model a pad token that ends no answer, padding on the right and a template for scoring.

    A tokenizer without such a token gets the new one `<pad>`, and the embedding a row of zeros for it.
    """
    pad = find_pad_token(tokenizer, template.stop_ids)
    if pad is None:
        tokenizer.add_special_tokens({"pad_token": NEW_PAD})
        grow(network, len(tokenizer))
        cast("torch.nn.Embedding", network.get_input_embeddings()).weight.data[tokenizer.pad_token_id] = 0
    else:
        tokenizer.pad_token = pad
    tokenizer.padding_side = "right"  # learned positions (GPT-2) count from the left, padding or not
    network.config.get_text_config().pad_token_id = network.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.chat_template = scoring_template(template)


def scoring_template(template: Template) -> str:
    """Return the Jinja of a template that ends a conversation with the token that ends the answer.

    Most templates put a line break after that token, which was never scored in training, and some write no end.
    """
    messages = (Message("user", "question"), Message("assistant", "answer"))
    learned = "".join(group.text for group in template.groups(messages))
    rendered = template.render(messages)
    if rendered == learned:
        return template.jinja
    answered = "messages[-1]['role'] == 'assistant' and not add_generation_prompt"
    if rendered.startswith(learned):  # the empty expressions keep white space that Jinja strips next to a block
        end = f"rendered[:-{len(rendered) - len(learned)}]"
    else:
        end = f"rendered + {learned[len(rendered) :]!r}"
    return (
        "{% set rendered %}{{ '' }}"
        + template.jinja.removesuffix("\n")
        + "{{ '' }}{% endset %}{{ "
        + f"{end} if {answered} else rendered"
        + " }}"
    )
