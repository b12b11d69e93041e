"""Vocabulary of the toy tasks; each word is one token of the toy model's tokenizer."""

from __future__ import annotations

PEOPLE = tuple(
    "Anna Ben Clara David Ella Finn Grace Henry Ida Jack Kate Leo "
    "Mia Noah Olga Paul Rosa Sam Tina Uma Victor Wendy Yara Zoe".split()
)
PLACES = tuple(
    "attic bakery barn cave cellar chapel forest garden harbor kitchen library market mill school stable tower".split()
)
PROPERTIES = tuple("bright clean cold crowded damp dark dry dusty empty loud quiet warm".split())
ANIMALS = tuple("ant bee cat crow dog duck fox frog goat hen horse mouse otter owl pig snail".split())
FOODS = tuple("apples beans bread cheese corn fish grass honey leaves nuts plums rice seeds soup".split())
COLOURS = tuple("black blue brown green grey orange pink purple red white yellow gold".split())
THINGS = tuple("apples books boxes cards coins cups eggs flowers pens shells stamps stones".split())
