{{- /* Names: the release's name where it says topmast already. */}}
{{- define "topmast.name" -}}
{{ .Values.nameOverride | default "topmast" | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "topmast.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "topmast.name" .) .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name (include "topmast.name" .) | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "topmast.keysSecret" -}}
{{ .Values.gateway.keys.existingSecret | default (printf "%s-api-keys" (include "topmast.fullname" .)) }}
{{- end }}

{{- define "topmast.firstKeySecret" -}}
{{ include "topmast.fullname" . }}-first-key
{{- end }}

{{- define "topmast.sharedSecret" -}}
{{ .Values.sharedToken.existingSecret | default (printf "%s-shared-token" (include "topmast.fullname" .)) }}
{{- end }}

{{- /* Optional: without it nothing is woken and no usage exchanged, which is no reason to run nothing. */}}
{{- define "topmast.sharedVolume" -}}
- name: shared-token
  secret: {secretName: {{ include "topmast.sharedSecret" . }}, optional: true}
{{- end }}

{{- define "topmast.sharedMount" -}}
- {name: shared-token, mountPath: /etc/topmast/shared, readOnly: true}
{{- end }}

{{- /* Whether engines of new revisions ask for tokens. Without the gateway clients call them, who have none. */}}
{{- define "topmast.closedEngines" -}}
{{- if and .Values.engineAccess.enabled .Values.gateway.enabled }}true{{ end }}
{{- end }}

{{- define "topmast.engineKeysSecret" -}}
{{ .Values.engineAccess.existingSecret | default (printf "%s-engine-keys" (include "topmast.fullname" .)) }}
{{- end }}

{{- define "topmast.metricsTokenSecret" -}}
{{ .Values.engineAccess.metrics.existingTokenSecret | default (printf "%s-metrics-token" (include "topmast.fullname" .)) }}
{{- end }}

{{- /* Engines that were closed before stay so until their next revision, and must still know who calls: keys that are
there stay in use when engineAccess is switched off. */}}
{{- define "topmast.engineKeys" -}}
{{- if or (include "topmast.closedEngines" .) (lookup "v1" "Secret" .Release.Namespace (include "topmast.engineKeysSecret" .)) }}true{{ end }}
{{- end }}

{{- /* The scrape token's Secret, where it is asked for. */}}
{{- define "topmast.metricsToken" -}}
{{- if and (include "topmast.engineKeys" .) (not .Values.engineAccess.metrics.open) }}{{ include "topmast.metricsTokenSecret" . }}{{ end }}
{{- end }}

{{- /* Cluster-scoped names carry the namespace, so that two releases of one name do not meet. */}}
{{- define "topmast.clusterName" -}}
{{ .Release.Namespace }}-{{ include "topmast.fullname" . }}
{{- end }}

{{- /* serviceAccount: (list $ "operator") */}}
{{- define "topmast.serviceAccount" -}}
{{- $root := index . 0 }}{{ $account := (index $root.Values (index . 1)).serviceAccount }}
{{- $made := ternary (printf "%s-%s" (include "topmast.fullname" $root) (index . 1)) "default" $account.create }}
{{- $account.name | default $made }}
{{- end }}

{{- /* image: (list $ .Values.images.operator). The registry that says most about this image wins. */}}
{{- define "topmast.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 }}
{{- with $image.registry | default $root.Values.images.registry | default ($root.Values.global).imageRegistry }}
{{- trimSuffix "/" . }}/{{ end }}
{{- $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* The labels of an object: (list $ "operator" .Values.operator.service.labels); the last two may be left out.
The chart's own labels win: selectors and `helm list` count on them. */}}
{{- define "topmast.labels" -}}
{{- $root := index . 0 }}
{{- $own := dict
  "app.kubernetes.io/name" (include "topmast.name" $root)
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_")) }}
{{- if gt (len .) 1 }}{{ $_ := set $own "app.kubernetes.io/component" (index . 1) }}{{ end }}
{{- $more := dict }}{{ if gt (len .) 2 }}{{ $more = index . 2 | default dict }}{{ end }}
{{- merge $own $more ($root.Values.commonLabels | default dict) | toYaml }}
{{- end }}

{{- /* selector: (list $ "operator"). No value but nameOverride may change it: a Deployment's is immutable. */}}
{{- define "topmast.selector" -}}
app.kubernetes.io/name: {{ include "topmast.name" (index . 0) }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}
