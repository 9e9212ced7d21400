"""Words that are no terms: what stands beside persons' names, common words, and given names of several languages."""

from __future__ import annotations

from typing import Final

# Before or after these a word is a person's name as often as not.
_GREETINGS: Final = """
    cheers dear dr frau hello herr hey hi love madam madame miss monsieur mr mrs ms prof regards señor señora
    sincerely sir thanks van von yours
"""
_COMMON: Final = """
    a about after again all also am an and any are as at back be because been before but by came can come could day
    did do does done down each even every few find first for from get give go good got great had has have he her
    here him his how i if in into is it its just keep know last less let like little long look made make many may
    me more most much must my need never new no nor not now of off old on once one only or other our out over own
    part please put right said same say see set she should show shown side small so some soon still such sure take
    tell than that the their them then there these they thing think this those though three through time to too two
    under until up us use very want was way we well went were what when where which while who why will with within
    without work would write wrote yes yet you your
"""
# Common ones; no list knows all.
_GIVEN_NAMES: Final = """
    aaron abdul adam adrian ahmed aisha alan albert alejandro alex alexander alexandra ali alice alicia alina
    amanda amir amy ana andre andrea andreas andrew andy angela anita anja anna anne anton antonio anya arthur arun
    ashley astrid barbara beatriz ben benjamin bernd bob brian bruno camille carl carla carlos carmen caroline
    catherine cesar charles charlotte chen chloe chris christian christina christine christoph claire clara claudia
    colin cristina daniel daniela david deepak diana diego dieter dmitri dominik donald dorothy edward elena elias
    elizabeth ella emil emily emma eric erik ernst eva fatima felix fernando fiona florian francesca francesco
    francisco frank franz fred frida gabriel gabriela georg george gerard giovanni giulia grace greg guido hannah
    hans harry hassan heinz helen helena helmut henry hiroshi hugo ian ibrahim ines ingrid irene isabel isabella
    ivan jack jacob jakob james jan jane jason javier jean jennifer jens jessica jim joan joanna joe johan johann
    john jonas jonathan jorge jose josef joseph joshua juan julia julian juliette jurgen karen karim karin karl
    kate katharina katherine katrin keith kenji kevin khalid klaus kumar larry laura lea lena leo leon li linda
    lisa liu lorenzo louis louise luca lucas lucia lucy luis luisa lukas manuel manuela marc marco margaret maria
    marie mario marion mark markus marta martha martin martina mary matteo matthew matthias max maya mehmet melissa
    michael michel michelle miguel mike mohamed mohammed monica monika nadia nancy natalia natalie nicholas nicola
    nicole nina noah nora olga oliver olivia omar oscar pablo paolo patricia patrick paul paula pedro peter petra
    philip philipp pierre priya rachel rahul rainer ralf ramon raphael ravi rebecca richard rita robert roberto
    roland rosa ruth sabine sam samantha samuel sandra sanjay sara sarah sebastian sergio silvia simon sofia sonia
    sophia sophie stefan stephan stephanie stephen steve steven susan susanne sven tamara tanja teresa thomas tim
    timothy tobias tom tomas tony ulrich ursula valentina vanessa vera victor victoria viktor vincent walter wang
    wei werner william wolfgang yasmin yuki yusuf zhang
"""
GREETINGS: Final = frozenset(_GREETINGS.split())
COMMON: Final = frozenset(_COMMON.split())
GIVEN_NAMES: Final = frozenset(_GIVEN_NAMES.split())
