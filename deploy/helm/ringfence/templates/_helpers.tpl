{{- define "ringfence.labels" -}}
k8s-app: ringfence
app.kubernetes.io/name: ringfence
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "ringfence.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* An IPv6 address is bracketed before a port. */}}
{{- define "ringfence.listen" -}}
{{- $address := .Values.metrics.address -}}
{{- if contains ":" $address }}[{{ $address }}]{{ else }}{{ $address }}{{ end }}:{{ .Values.metrics.port }}
{{- end }}

{{/* The address that probes ask: the loopback where all are listened on. */}}
{{- define "ringfence.probed" -}}
{{- if or (eq .Values.metrics.address "0.0.0.0") (eq .Values.metrics.address "::") }}127.0.0.1{{ else }}{{ .Values.metrics.address }}{{ end }}
{{- end }}
