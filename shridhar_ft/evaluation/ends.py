"""Why a score has no floor or no ceiling: the only sentences that may stand in a number's place."""

NO_TEXT = "none: there is no training text to count"
NO_BEST_LOSS = "none: how well this text can be foretold is not known"
NO_BEST_GAIN = "none: how much far context can save on this text is not known"
NO_BEST_ANSWER = "none: nobody measured how well a person foretells the answers"
NO_DEFINITIONS = "none: the glossary has no definitions, or none that fit the window"
NO_PRODUCTS = "none: what a GGUF multiplies in 8 bits is not timed"
NOTHING_FOUND = "none: nothing was found at the length that it is compared with"
OF_THE_HARNESS = "none: the harness's own tasks bring none"

REASONS = frozenset(
    {
        *(NO_TEXT, NO_BEST_LOSS, NO_BEST_GAIN, NO_BEST_ANSWER, NO_DEFINITIONS, NO_PRODUCTS, NOTHING_FOUND),
        OF_THE_HARNESS,
    }
)
