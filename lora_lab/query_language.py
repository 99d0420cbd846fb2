"""Questions in English and the answers in a small query language: the course's instruction task.

The language, in EBNF (every word is separated by one space; a comma hangs on the word before it):

    query       = "select" what "from" table [ "where" condition ] [ "group by" field ] [ order ] [ limit ] ;
    what        = field [ "," field ]  |  "count"  |  ( "sum" | "max" | "min" ) number field ;
    condition   = comparison [ ( "and" | "or" ) comparison ] ;
    comparison  = text field "is" [ "not" ] value  |  number field ( "over" | "under" ) digit ;
    order       = "order by" field ( "asc" | "desc" ) ;
    limit       = "limit" limit digit ;
    limit digit = "2" | ... | "9" ;
    digit       = "1" | "2" | ... | "9" ;

`group by` stands only after count, sum, max or min, on a text field; `order by` and `limit` only after fields. The two
fields of a select and the two of a condition differ. Every query has at least one clause after its table.
Tables, fields and values: TABLES and VALUES below. An item is one query and one of many ways to ask for it.

Comparisons are words (`over`, not `>`) because the base model has hardly ever seen `<` and `>`: with its embedding
frozen it would have to learn to write them through the layers alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

TEXT, NUMBER = "text", "number"
_COLOR = ("red", "blue", "green", "white", "black", "brown", "yellow", "grey")
_HOME = ("farm", "forest", "garden", "island", "village", "city", "river", "castle")
_OWNER = ("Tom", "Lily", "Ben", "Anna", "Sam", "Mia", "Jack", "Lucy")
VALUES: dict[str, tuple[str, ...]] = {"color": _COLOR, "home": _HOME, "owner": _OWNER}

# table -> its number fields; every table also has a name and the three text fields of VALUES.
TABLES: dict[str, tuple[str, ...]] = {
    "cats": ("age", "size", "speed"),
    "dogs": ("age", "size", "cost"),
    "birds": ("age", "size", "speed"),
    "horses": ("age", "cost", "speed"),
    "boats": ("length", "cost", "speed"),
    "books": ("age", "length", "cost"),
    "toys": ("age", "size", "cost"),
    "houses": ("age", "size", "rooms"),
}

# How often a clause is drawn: the dials of the task's difficulty.
AGGREGATE_SHARE = 0.3  # count, sum, max, min instead of fields
SECOND_FIELD_SHARE = 0.5
CONDITION_SHARES = (0.15, 0.45, 0.40)  # none, one, two comparisons
ORDER_SHARE = 0.5
LIMIT_SHARE = 0.4
GROUP_SHARE = 0.5
NOT_SHARE = 0.25

ASK_FIELDS = ("Show the {}", "List the {}", "Give me the {}", "Find the {}", "Tell me the {}")
ASK_COUNT = ("Count the {}", "How many {}", "Give the number of {}")
ASK_SUM = ("Add up the {}", "Give the sum of the {}", "What is the total {}")
ASK_MAX = ("Give the largest {}", "What is the highest {}", "Find the greatest {}")
ASK_MIN = ("Give the least {}", "What is the lowest {}", "Find the smallest {}")
OF_TABLE = ("of {}", "of all {}", "of the {}", "for {}")
WITH_VERB = ("whose {}", "where {}", "when {}")  # "whose color is red"
WITHOUT_VERB = ("with {}", "that have {}")  # "with color red"
OVER = ("over", "above", "more than")
UNDER = ("under", "below", "less than")
ORDER = ("in order of {}", "sorted by {}", "by {}")
ASCENDING = {NUMBER: ("going up", "smallest first", "from low to high"), TEXT: ("going up", "from A to Z")}
DESCENDING = {NUMBER: ("going down", "largest first", "from high to low"), TEXT: ("going down", "from Z to A")}
FIRST = ("the first {} {}", "only {} {}", "just {} {}")  # before the table
LAST = ("only {}", "at most {}", "no more than {}", "{} at most")  # at the end
GROUP = ("for each {}", "for every {}", "one for each {}")


@dataclass(frozen=True)
class Comparison:
    """`field is value`, `field is not value`, `field over digit` or `field under digit`."""

    field: str
    operator: str
    value: str

    def __str__(self) -> str:
        return f"{self.field} {self.operator} {self.value}"


@dataclass(frozen=True)
class Query:
    """One sentence of the language; `str(query)` writes it. `aggregate` is "" where fields are selected."""

    table: str
    fields: tuple[str, ...]
    aggregate: str = ""
    conditions: tuple[Comparison, ...] = ()
    joiner: str = "and"
    group: str = ""
    order: tuple[str, str] = ()  # (field, "asc" | "desc")
    limit: int = 0

    def __str__(self) -> str:
        words = ["select", *([self.aggregate] if self.aggregate else [])]
        words += [", ".join(self.fields)] if self.fields else []
        words += ["from", self.table]
        if self.conditions:
            words += ["where", f" {self.joiner} ".join(map(str, self.conditions))]
        if self.group:
            words += ["group by", self.group]
        if self.order:
            words += ["order by", *self.order]
        if self.limit:
            words += ["limit", str(self.limit)]
        return " ".join(words)


def fields_of(table: str) -> dict[str, str]:
    """Every field of a table and its type: name (text, never compared), three text fields, three number fields."""
    return {"name": TEXT} | dict.fromkeys(VALUES, TEXT) | dict.fromkeys(TABLES[table], NUMBER)


def count_queries() -> int:
    """How many different queries the grammar can write (exact). Each can also be asked in many ways."""
    total = 0
    for table, numbers in TABLES.items():
        per_field = [2 * len(values) for values in VALUES.values()] + [2 * 9] * len(numbers)
        one = sum(per_field)
        two = 2 * (one * one - sum(n * n for n in per_field))  # two different fields in either order, "and" or "or"
        conditions = 1 + one + two
        fields = len(fields_of(table))
        rows = fields + fields * (fields - 1)
        order, limit = 1 + 2 * fields, 1 + 8
        total += rows * (conditions * order * limit - 1)  # less the query with no clause at all
        total += (1 + 3 * len(numbers)) * (conditions * (1 + len(VALUES)) - 1)
    return total


def draw_query(rng: random.Random) -> Query:
    """One query at random, by the shares above."""
    while True:
        table = rng.choice(list(TABLES))
        conditions = _draw_conditions(table, rng)
        joiner = rng.choice(("and", "or")) if len(conditions) == 2 else "and"
        if rng.random() < AGGREGATE_SHARE:
            aggregate = rng.choice(("count", "sum", "max", "min"))
            fields = () if aggregate == "count" else (rng.choice(TABLES[table]),)
            group = rng.choice(list(VALUES)) if rng.random() < GROUP_SHARE else ""
            query = Query(table, fields, aggregate, conditions, joiner, group)
        else:
            names = list(fields_of(table))
            fields = tuple(rng.sample(names, 2 if rng.random() < SECOND_FIELD_SHARE else 1))
            order = (rng.choice(names), rng.choice(("asc", "desc"))) if rng.random() < ORDER_SHARE else ()
            limit = rng.randint(2, 9) if rng.random() < LIMIT_SHARE else 0
            query = Query(table, fields, "", conditions, joiner, "", order, limit)
        if query.conditions or query.group or query.order or query.limit:
            return query


def _draw_conditions(table: str, rng: random.Random) -> tuple[Comparison, ...]:
    number = rng.choices((0, 1, 2), CONDITION_SHARES)[0]
    conditions = []
    for field in rng.sample([*VALUES, *TABLES[table]], number):
        if field in VALUES:
            operator = "is not" if rng.random() < NOT_SHARE else "is"
            conditions.append(Comparison(field, operator, rng.choice(VALUES[field])))
        else:
            conditions.append(Comparison(field, rng.choice(("over", "under")), str(rng.randint(1, 9))))
    return tuple(conditions)


def ask(query: Query, rng: random.Random) -> str:
    """One of the many English questions whose answer is `query`."""
    table, end = query.table, []
    if query.limit and rng.random() < 0.5:
        table = rng.choice(FIRST).format(query.limit, table)
    elif query.limit:
        end = [rng.choice(LAST).format(query.limit)]
    if query.aggregate == "count":
        text = rng.choice(ASK_COUNT).format(table)
    else:
        ways = {"": ASK_FIELDS, "sum": ASK_SUM, "max": ASK_MAX, "min": ASK_MIN}[query.aggregate]
        of = "of {}" if table != query.table else rng.choice(OF_TABLE)
        text = f"{rng.choice(ways).format(' and '.join(query.fields))} {of.format(table)}"
    if query.conditions:
        text += " " + _ask_conditions(query, rng)
    if query.order:
        field, direction = query.order
        ways = (ASCENDING if direction == "asc" else DESCENDING)[fields_of(query.table)[field]]
        end.insert(0, f"{rng.choice(ORDER).format(field)} {rng.choice(ways)}")
    if query.group:
        end = [rng.choice(GROUP).format(query.group)]
    return ", ".join([text, *end]) + ("?" if text.startswith(("How", "What")) else ".")


def _ask_conditions(query: Query, rng: random.Random) -> str:
    with_verb = rng.random() < 0.5
    parts = []
    for comparison in query.conditions:
        word = comparison.operator
        if word in ("over", "under"):
            word = rng.choice(OVER if word == "over" else UNDER)
        else:
            word = word.removeprefix("is").strip()
        verb = ["is"] if with_verb else []
        parts.append(" ".join([comparison.field, *verb, *([word] if word else []), comparison.value]))
    return rng.choice(WITH_VERB if with_verb else WITHOUT_VERB).format(f" {query.joiner} ".join(parts))


def make_items(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """`count` pairs (question, query), all queries different; the same for the same seed.

    Raises ValueError if count is below 1 or above a tenth of what the grammar holds.
    """
    most = count_queries() // 10
    if not 1 <= count <= most:
        raise ValueError(f"count is {count}; expected 1 to {most:,} (a tenth of the grammar's queries)")
    rng = random.Random(f"query {seed}")
    items: dict[str, str] = {}
    while len(items) < count:
        query = draw_query(rng)
        question = ask(query, rng)
        items.setdefault(str(query), question)
    return [(question, query) for query, question in items.items()]
