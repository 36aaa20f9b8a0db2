"""A row's numbers do not depend on the rows beside it: bit for bit, on the CPU that runs this."""

import pytest
import torch

from transcriber_engine.decoder import attend
from transcriber_engine.linear import InvariantLinear

ROWS = [1, 2, 3, 5, 8, 9, 16, 17, 33, 72, 144]


@pytest.mark.parametrize(("outputs", "inputs"), [(512, 512), (1536, 512), (2048, 512), (512, 2048), (51865, 512), (384, 1536)])
def test_a_row_of_a_product_is_the_same_in_any_number_of_rows(outputs: int, inputs: int) -> None:
    random = torch.Generator().manual_seed(0)
    layer = InvariantLinear(torch.randn(outputs, inputs, generator=random), torch.randn(outputs, generator=random))
    x = torch.randn(max(ROWS), inputs, generator=random)
    alone = layer(x[:1])[0]
    assert [rows for rows in ROWS if not torch.equal(layer(x[:rows])[0], alone)] == []
    last = [rows for rows in ROWS if not torch.equal(layer(x[:rows])[-1], layer(x[rows - 1 : rows])[0])]
    assert last == []


@pytest.mark.parametrize("keys", [64, 448, 1500])
def test_a_row_of_attention_is_the_same_in_any_number_of_queries(keys: int) -> None:
    random = torch.Generator().manual_seed(0)
    query = torch.randn(1, 8, 17, 64, generator=random)
    key, value = torch.randn(2, 1, 8, keys, 64, generator=random)
    alone = attend(query[:, :, :1], key, value, None)[:, :, 0]
    assert [q for q in range(1, 18) if not torch.equal(attend(query[:, :, :q], key, value, None)[:, :, 0], alone)] == []


def test_a_product_is_that_of_torch() -> None:
    random = torch.Generator().manual_seed(1)
    weight, bias, x = (torch.randn(*shape, generator=random) for shape in ((40, 1300), (40,), (2, 3, 1300)))
    torch.testing.assert_close(InvariantLinear(weight, bias)(x), torch.nn.functional.linear(x, weight, bias), atol=1e-4, rtol=1e-4)
