"""The `supple` command with heat as a further cost: `python -m tests.support.heat search BUNDLE`."""

from evolution.costs import AdditiveCost, CostTables
from service import costs
from service.quantities import Units


def heat_cost(tables: CostTables) -> AdditiveCost:
    """The heat of an image in mJ, the sum of what each block takes. A block's heat is made up from its key."""
    heat_mj = {key: int(key, 16) % 97 / 16 for key in tables.block_keys if key is not None}
    return AdditiveCost(tables, "heat_mj", tables.block_values(heat_mj))


HEAT = costs.CostKind(
    "heat_mj",
    label="heat",
    lowest="lowest",
    unit="millijoules",
    description="millijoules for one image",
    units=Units({"J": 1e3, "mJ": 1.0}, ("2.5mJ",)),
    example="40mJ",
    build=heat_cost,
    whole=False,
)

if __name__ == "__main__":
    costs.COSTS += (HEAT,)
    from service.cli.main import main

    main()
