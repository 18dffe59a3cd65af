{{- /* The kinds, each followed by the types of its fields in the order in which a manifest has them. */ -}}
{{- define "gvList" -}}
# API

<!-- Written by make generate from the godoc of api/. -->

The same is in `kubectl explain appisolation.spec --recursive`, and in an editor by the [JSON Schema](editors.md).
[behaviour.md](behaviour.md) says what the operator does with it. The API server sets no defaults: what is omitted means
what is said here.

{{ range . -}}
{{- $gv := . -}}
{{- $seen := dict -}}
All kinds are of `{{ .GroupVersionString }}`: {{ range $i, $kind := .SortedKinds }}{{ if $i }}, {{ end }}{{ $gv.TypeForKind $kind | markdownRenderTypeLink }}{{ end }}.
{{ range .SortedKinds }}{{ template "tree" (dict "type" ($gv.TypeForKind .) "seen" $seen) }}{{ end }}
## Words and names

| type | is | values |
|---|---|---|
{{ range .SortedTypes }}{{ if and (not .Fields) (markdownShouldRenderType .) -}}
| <a id="{{ lower .Name }}"></a>{{ .Name }} | {{ template "text" .Doc }}{{ range index .Markers "kubebuilder:validation:XValidation" }} *Refused otherwise: {{ template "text" .Message }}.*{{ end }} | {{ range $i, $value := .EnumValues }}{{ if $i }}<br>{{ end }}`{{ .Name }}`{{ with .Doc }} {{ template "text" (regexReplaceAll "^\\w+ " . "" | trim) }}{{ end }}{{ end }} |
{{ end }}{{ end }}{{ end }}{{ end -}}

{{- /* tree is a type and, after it, those of its fields; each once. */ -}}
{{- define "tree" -}}
{{- $type := .type -}}{{- $seen := .seen -}}
{{- if and $type.Fields (hasPrefix "github.com/appisolation/" $type.Package) (not (hasKey $seen $type.Name)) -}}
{{- $_ := set $seen $type.Name true }}
{{ if $type.GVK }}##{{ else }}###{{ end }} {{ $type.Name }}

{{ $type.Doc }}

| field | type | |
|---|---|---|
{{ range $type.Fields -}}
| `{{ .Name }}`{{ if has "Required: {}" .Validation }} **required**{{ end }} | {{ template "typeOf" .Type }} | {{ template "text" .Doc }}{{ template "fieldRules" . }} |
{{ end }}{{ template "rulesList" $type }}
{{- range $type.Fields }}{{ template "tree" (dict "type" .Type "seen" $seen) }}{{ with .Type.UnderlyingType }}{{ template "tree" (dict "type" . "seen" $seen) }}{{ end }}{{ end }}
{{- end -}}
{{- end -}}

{{- define "typeOf" -}}
{{- if eq .Name "IntOrString" }}integer or string{{ else if eq .Name "LabelSelectorOperator" }}string{{ else if .KeyType }}map of string to {{ markdownRenderType .ValueType }}{{ else }}{{ markdownRenderType . }}{{ end -}}
{{- end -}}

{{- define "text" -}}
{{- . | replace "\n" " " | replace "|" "\\|" | replace "*" "\\*" -}}
{{- end -}}

{{- /* fieldRules is what the API server says when a field breaks a rule of its own; those of its type are the type's. */ -}}
{{- define "fieldRules" -}}
{{- $types := list -}}
{{- range index .Type.Markers "kubebuilder:validation:XValidation" }}{{ $types = append $types .Message }}{{ end -}}
{{- with .Type.UnderlyingType }}{{ range index .Markers "kubebuilder:validation:XValidation" }}{{ $types = append $types .Message }}{{ end }}{{ end -}}
{{- range index .Markers "kubebuilder:validation:XValidation" }}{{ if not (has .Message $types) }} *Refused otherwise: {{ template "text" .Message }}.*{{ end }}{{ end -}}
{{- end -}}

{{- define "rulesList" -}}
{{- with index .Markers "kubebuilder:validation:XValidation" }}
The API server refuses what breaks a rule, saying which:
{{ range . }}
- {{ with .FieldPath }}`{{ trimPrefix "." . }}`: {{ end }}{{ template "text" .Message }}
{{- end }}
{{ end -}}
{{- end -}}
