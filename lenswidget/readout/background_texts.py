"""The texts of the default background, so that it needs no network: prose, talk, a list, code, figures."""

TEXTS = (
    "The river rises in the hills north of the old town and runs for forty miles to the sea. In spring it "
    "floods the meadows; by August a child can wade across. Most of the mills that stood along it closed "
    "before the war, and the last one is now a small museum.",
    '"Did you call her back?" he asked.\n"Not yet. I was going to do it after lunch, but then the train was '
    'late."\n"She said it was important."\n"Everything is important to her," I said, and put my coat on.',
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    if not values:\n"
    "        return None\n    return total / len(values)\n\nprint(mean([1, 2, 3]))\n",
    "1. Heat the oven to 180 degrees.\n2. Mix the flour, sugar and butter in a large bowl.\n3. Add two eggs "
    "and a cup of milk, and stir well.\n4. Bake for 25 minutes, then leave it to cool.",
    "The company reported that sales rose by 12% to $3.4 billion in the second quarter, while costs fell. "
    "Its shares were up on Tuesday. Analysts had expected less, and some of them said that the forecast for "
    "next year is still too low.",
    "A cell is the smallest unit of life. Plants and animals are made of many cells, each with its own "
    "parts: the membrane keeps it together, and the nucleus holds the genetic material. Cells grow and "
    "divide, and this is how an organism develops and heals.",
)
