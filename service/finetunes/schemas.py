"""Request bodies about fine-tuning. `service.candidates.schemas` has the answer, which candidates show, too."""

from typing import Annotated

from pydantic import Field

from service.web.schemas import Positive, Request

MOST_EPOCHS = 10_000


class FineTuningIn(Request):
    """How to train a candidate's network alone. What is left out follows from the supernet's recipe."""

    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
    from_scratch: bool = Field(False, description="Start from random weights instead of the supernet's.")
    learning_rate: Annotated[Positive, Field(lt=100)] | None = Field(
        None,
        description="The highest. Null: that of the recipe's last phase; from scratch, of its first.",
    )
    distillation: Annotated[float, Field(ge=0, lt=100)] | None = Field(
        None, description="Weight of the soft labels of the supernet's largest network. Null: 1; from scratch, 0."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="Of the order of images, of augmentation and of random weights."
    )
