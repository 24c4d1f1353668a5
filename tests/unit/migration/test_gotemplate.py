"""Templates for names: what Go's text/template and the admitted sprig functions give for the same text."""

import pytest

from tranship.errors import Invalid
from tranship.migration.gotemplate import FUNCTIONS, render

VARIABLES = {"Name": "Web_01.example", "Plan": "a-rather-long-plan-name", "Index": 2, "Root": 0, "Shared": False}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{{.Name}}", "Web_01.example"),
        ("{{ .Index }}", "2"),
        ("{{trunc 15 .Plan}}-{{trunc 15 .Name}}-disk-{{.Index}}", "a-rather-long-p-Web_01.example-disk-2"),
        ("{{.Name | lower | trunc 6}}", "web_01"),
        ('{{ replace "_" "-" (lower .Name) }}', "web-01.example"),
        ('{{.Name | replace "_" "-" | replace "." "-" | lower}}', "web-01-example"),
        ("{{if .Shared}}shared{{else}}own{{end}}", "own"),
        ("{{if eq .Index .Root}}root{{else if eq .Index 2}}second{{else}}data{{end}}", "second"),
        ("{{if eq .Index .Root}}root{{else if eq .Index 3}}third{{else}}data-{{.Index}}{{end}}", "data-2"),
        ("a{{if .Shared}}x{{if .Name}}y{{end}}{{end}}b", "ab"),
        ("{{if and .Name (not .Shared)}}yes{{end}}", "yes"),
        ("{{or .Shared .Name}}", "Web_01.example"),
        ("a  {{- .Index -}}  b", "a2b"),
        ("a {{/* a comment */}}b", "a b"),
        ("{{- /* trimmed */ -}} b", "b"),
        ("{{.Shared}}", "false"),
        ("{{`raw \\d`}}", "raw \\d"),
        ('{{"a\\tb"}}', "a\tb"),
        ('{{mustRegexReplaceAll "a(x*)b" "-ab-axxb-" "${1}W"}}', "-W-xxW-"),
        ('{{mustRegexReplaceAll "a(x*)b" "-ab-axxb-" "$1W"}}', "---"),
        ('{{mustRegexReplaceAll "[^a-z0-9]+" (lower .Name) "-"}}', "web-01-example"),
        ('{{mustRegexReplaceAll "(?P<n>[0-9]+)" "a1b22" "<${n}$$>"}}', "a<1$>b<22$>"),
        ('{{title "hello big world"}}{{untitle "Hello World"}}', "Hello Big Worldhello world"),
        ('{{initials "John Doe"}}{{nospace "a b  c"}}{{repeat 3 "ab"}}', "JDabcababab"),
        ('{{substr 1 4 "abcdef"}}{{substr -1 2 "abcdef"}}{{substr 4 -1 "abcdef"}}', "bcdabef"),
        ('{{trunc -2 "abcdef"}}{{trunc 9 "ab"}}{{trunc -9 "ab"}}', "efabab"),
        ('{{trimAll "$" "$5.00$"}} {{trimSuffix ".go" "file.go"}} {{trimPrefix "go." "go.file"}}', "5.00 file file"),
        ('{{contains "lo" "hello"}} {{hasPrefix "go" "golang"}} {{hasSuffix "x" "golang"}}', "true true false"),
        ("{{add 1 2 3}} {{add1 .Index}} {{sub 5 3}} {{mul 2 3 4}} {{max 1 5 3}} {{min 1 5 3}}", "6 3 2 24 5 1"),
        ("{{div 10 3}} {{div -7 2}} {{mod 10 3}} {{mod -7 2}}", "3 -3 1 -1"),
        ("{{floor 3.75}} {{ceil 3.25}} {{round 3.75159 2}}", "3 4 3.75"),
        ('{{printf "%s-%02d-%v%%" .Plan .Index .Shared}}', "a-rather-long-plan-name-02-false%"),
        ("{{lt .Index 3}} {{ge .Index 3}} {{ne .Name .Plan}} {{len .Plan}}", "true false true 23"),
        ("{{if(eq .Index 2)}}x{{end}}", "x"),
    ],
)
def test_what_go_gives(template: str, text: str) -> None:
    assert render(template, VARIABLES, "f") == text


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{.Missing}}", r"\.Missing, which is not known"),
        ("{{default 1 .Name}}", "default, which is not known"),
        ("{{range .Name}}{{end}}", "range, which is not known"),
        ("{{$x := .Name}}", "not understood"),
        ("{{.Name.First}}", "not understood"),
        ("{{.Name", "{{ without }}"),
        ("{{}}", "nothing in it"),
        ("{{if .Name}}x", "without {{end}}"),
        ("{{end}}", "without an if"),
        ("{{if .Name}}{{else}}{{else}}{{end}}", "has to end"),
        ("{{if .Name}}{{else .Name}}{{end}}", "has to end"),
        ("{{lower .Index}}", "gives lower '2' where it takes a string"),
        ('{{trunc "x" .Name}}', "where it takes a whole number"),
        ("{{trunc 3}}", "gives trunc 1 arguments"),
        ("{{lower .Name .Name}}", "gives lower 2 arguments"),
        ("{{eq .Name 1}}", "different types"),
        ("{{div 1 0}}", "cannot be carried out"),
        ("{{mod 1 0}}", "cannot be carried out"),
        ('{{mustRegexReplaceAll "(" .Name ""}}', "cannot be carried out"),
        ('{{repeat 1000000000 "x"}}', "cannot be carried out"),
        ('{{repeat 1000 (repeat 1000 "x")}}', "too big"),
        ("{{round 1 99999}}", "cannot be carried out"),
        ("{{mul 9223372036854775807 2}}", "too big"),
        ('{{printf "%d" .Name}}', "whole number"),
        ('{{printf "%q" .Name}}', "not known"),
        ('{{printf "a" .Name}}', "leaves"),
        ("{{.Name | .Plan}}", "no function"),
        ("{{(lower .Name}}", "without"),
        ("{{lower .Name)}}", "too much"),
        ("{{" + "(" * 5000 + ".Name" + ")" * 5000 + "}}", "too deeply"),
    ],
)
def test_what_is_not_known_is_refused_with_the_field(template: str, why: str) -> None:
    with pytest.raises(Invalid, match=why) as raised:
        render(template, VARIABLES, "spec.pvcNameTemplate")
    assert raised.value.field == "spec.pvcNameTemplate"
    assert raised.value.suggestion


def test_a_hostile_expression_takes_no_time() -> None:
    assert render('{{mustRegexReplaceAll "(a+)+$" "' + "a" * 400 + '!" ""}}', {}, "f").endswith("!")


def test_every_function_that_forklift_admits_is_there() -> None:
    admitted = """lower upper contains replace trim trimAll trimSuffix trimPrefix title untitle repeat substr nospace trunc
        initials hasPrefix hasSuffix mustRegexReplaceAll add add1 sub div mod mul max min floor ceil round"""
    assert set(admitted.split()) <= FUNCTIONS.keys()
